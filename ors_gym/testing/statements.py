"""The statements of the protocol, each with a check. Numbers never change: new statements are appended."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from ors_gym.http.sse import EventDecoder
from ors_gym.spaces.schemas import Schema
from ors_gym.testing.report import Level
from ors_gym.testing.server import Answer, DoesNotApplyError, NotAsStatedError, as_list, as_object, require
from ors_gym.testing.server import ServerUnderTest as Server
from ors_gym.testing.tasks import NUM_MOVES, NUM_TASKS, probe_tasks
from ors_gym.types import ToolList
from ors_gym.types.shapes import shown

__all__ = ["STATEMENTS", "Statement"]

_Check: TypeAlias = Callable[[Server], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of the protocol and its check."""

    number: str
    level: Level
    reference: str
    check: _Check

    @property
    def name(self) -> str:
        """The name of the check."""
        return self.check.__name__

    @property
    def words(self) -> str:
        """The statement."""
        return (self.check.__doc__ or "").strip()


STATEMENTS: list[Statement] = []
"""All statements, in the order of the checks."""

STANDARD = "openrewardstandard.io, HTTP API"
REFERENCE = "openreward, environments/server.py"


def _states(number: str, level: Level = Level.REQUIRED, reference: str = STANDARD) -> Callable[[_Check], _Check]:
    def add(check: _Check) -> _Check:
        STATEMENTS.append(Statement(number, level, reference, check))
        return check

    return add


# ------------------------------------------------------------------- 1: the server


@_states("1.1")
async def health(server: Server) -> str:
    """GET /health answers {"status": "ok"}."""
    answer = as_object(await server.get("/health"), "the answer")
    require(answer.get("status") == "ok", f"it answered {shown(answer)}")
    return "ok"


@_states("1.2")
async def environments(server: Server) -> str:
    """GET /list_environments names at least one environment."""
    names = server.names(as_list(await server.get("/list_environments"), "the list"), "environments")
    require(names, "the list is empty")
    wanted, server.env_name = server.env_name or names[0], ""
    known = {name.lower(): name for name in names}
    require(wanted.lower() in known, f"there is no {wanted!r} among {', '.join(names)}")
    server.env_name = known[wanted.lower()]
    return ", ".join(names)


# ------------------------------------------------------------------- 2: an environment


@_states("2.1")
async def splits(server: Server) -> str:
    """GET /{env}/splits names at least one split, as a name or as an object with a name."""
    answer = as_list(await server.get(f"{server.env_path}/splits"), "the list")
    require(answer, "the list is empty")
    given = [split if isinstance(split, str) else as_object(split, "a split").get("name") for split in answer]
    names = server.names(given, "splits")
    require(server.split in ("", *names), f"there is no split {server.split!r} among {', '.join(names)}")
    server.splits = tuple(names)
    types: list[Any] = [as_object(split, "a split").get("type") for split in answer if isinstance(split, dict)]
    unknown = [shown(kind) for kind in types if kind not in ("train", "validation", "test")]
    require(not unknown, f"unknown split types: {', '.join(unknown)}")
    return ", ".join(names)


@_states("2.2")
async def tools(server: Server) -> str:
    """GET /{env}/tools lists tools with names and schemas."""
    answer = as_object(await server.get(f"{server.env_path}/tools"), "the answer")
    listed = as_list(answer.get("tools"), "tools")
    names = server.names([as_object(tool, "a tool").get("name") for tool in listed], "tools")
    server.tools = ToolList.from_wire(answer)
    terminal = server.tools.terminal_tool
    require(names or terminal, "there is neither a tool nor a terminal tool")
    return ", ".join([*names, *([f"{terminal.name} (terminal)"] if terminal else [])])


@_states("2.3", Level.RECOMMENDED)
async def tool_descriptions(server: Server) -> str:
    """Each tool has a description."""
    if server.tools is None:
        raise DoesNotApplyError("the tools are unknown")
    silent = [tool.name for tool in server.tools if not tool.description.strip()]
    require(not silent, f"tools without a description, which a model needs: {', '.join(silent)}")
    return f"{len(server.tools)} checked"


@_states("2.4")
async def tool_schemas(server: Server) -> str:
    """A tool's input_schema is null, or a JSON Schema of an object."""
    if server.tools is None:
        raise DoesNotApplyError("the tools are unknown")
    for tool in server.tools:
        if tool.input_schema is None:
            continue
        try:
            Draft202012Validator.check_schema(tool.input_schema)
        except SchemaError as error:
            raise NotAsStatedError(f"{tool.name}: not a JSON Schema: {error.message}") from None
        kind = tool.input_schema.get("type")
        require(kind == "object", f"{tool.name}: the schema's type is {shown(kind)}, not 'object'")
    return f"{len(server.tools)} checked"


@_states("2.5")
async def tasks(server: Server) -> str:
    """POST /{env}/tasks lists the tasks of a split, or num_tasks and task_range do; some split has at least one."""
    if not server.splits:
        raise DoesNotApplyError("no split was found")
    for split in server.splits:
        answer = await server.ask("POST", f"{server.env_path}/tasks", {"split": split})
        if answer.status == 200:
            listed = as_list(as_object(answer.json(), "the answer").get("tasks"), "tasks")
            for each in listed:
                as_object(each, "a task")
            server.num_tasks[split] = len(listed)
        else:
            require(400 <= answer.status < 500, f"{answer.request} answered {answer.status}")
            server.num_tasks[split] = await server.client.num_tasks(server.env_name, split)
    server.split = server.split or max(server.num_tasks, key=lambda split: server.num_tasks[split] > 0)
    found = server.num_tasks[server.split]
    require(found > server.index, f"split {server.split!r} has {found} tasks, so no task {server.index}")
    return ", ".join(f"{split} {number:,}" for split, number in server.num_tasks.items())


@_states("2.6", Level.RECOMMENDED)
async def num_tasks(server: Server) -> str:
    """POST /{env}/num_tasks counts the tasks of a split, as many as are listed."""
    server.need_tasks()
    for split, listed in server.num_tasks.items():
        answer = as_object(await server.post(f"{server.env_path}/num_tasks", {"split": split}), "the answer")
        count: object = answer.get("num_tasks")
        require(count == listed, f"split {split!r}: it answered {shown(answer)}, but {listed} are listed")
    return ", ".join(f"{split} {number:,}" for split, number in server.num_tasks.items())


@_states("2.7", Level.RECOMMENDED)
async def task(server: Server) -> str:
    """POST /{env}/task returns the task at an index, a JSON object, and the same one each time."""
    server.need_tasks()
    body = {"split": server.split, "index": server.index}
    first, second = [await server.post(f"{server.env_path}/task", body) for _ in range(2)]
    as_object(as_object(first, "the answer").get("task"), "the task")
    require(first == second, "two requests returned different tasks")
    return f"{server.split}[{server.index}]"


@_states("2.8", Level.RECOMMENDED)
async def task_range(server: Server) -> str:
    """POST /{env}/task_range returns the tasks from start to before stop."""
    server.need_tasks()
    body = {"split": server.split, "start": server.index, "stop": server.index + 1}
    answer = as_object(await server.post(f"{server.env_path}/task_range", body), "the answer")
    given = as_list(answer.get("tasks"), "tasks")
    require(len(given) == 1, f"one task was requested, {len(given)} were returned")
    return "one task"


@_states("2.9", Level.RECOMMENDED)
async def task_out_of_range(server: Server) -> str:
    """POST /{env}/task refuses an index beyond the last task with a 4xx status."""
    server.need_tasks()
    body = {"split": server.split, "index": server.num_tasks[server.split]}
    answer = await server.ask("POST", f"{server.env_path}/task", body)
    if answer.missing:
        raise DoesNotApplyError("there is no /task")
    require(400 <= answer.status < 500, f"it answered {answer.status}")
    return f"refused with {answer.status}"


# ------------------------------------------------------------------- 3: a session


@_states("3.1")
async def session_opens(server: Server) -> str:
    """POST /create_session and /create open a session of a task."""
    server.need_tasks()
    session = server.client.session(
        server.env_name, split=server.split, index=server.index, secrets=server.secrets or None
    )
    await session.open()
    server.session = session
    return "open"


@_states("3.2")
async def prompt(server: Server) -> str:
    """GET /{env}/prompt returns at least one block of text or image."""
    blocks = await server.open_session.get_prompt()
    require(blocks, "the prompt is empty")
    return ", ".join(block.type for block in blocks)


@_states("3.3", Level.RECOMMENDED)
async def prompt_is_not_stored(server: Server) -> str:
    """GET /{env}/prompt answers with Cache-Control: no-store; otherwise a cache could send it to other sessions."""
    answer = await server.ask("GET", f"{server.env_path}/prompt", headers=server.of_session())
    value = answer.headers.get("cache-control", "")
    require("no-store" in value or "private" in value, f"Cache-Control is {value!r}")
    return value


@_states("3.4", Level.RECOMMENDED, REFERENCE)
async def session_tools(server: Server) -> str:
    """GET /{env}/task_tools lists the tools of this session."""
    answer = await server.ask("GET", f"{server.env_path}/task_tools", headers=server.of_session())
    return ", ".join(ToolList.from_wire(answer.json()).names) or "none"


async def _call(server: Server, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Call a tool with a plain request and return the result at the end of the stream."""
    body = {"name": name, "input": arguments}
    headers = {**server.of_session(), "Accept": "text/event-stream"}
    answer = await server.ask("POST", f"{server.env_path}/call", body, headers)
    kind = answer.headers.get("content-type", "")
    require(answer.status == 200, f"{answer.request} answered {answer.status}, not 200")
    require(kind.startswith("text/event-stream"), f"the answer is {kind or 'of no type'}, not text/event-stream")
    events = EventDecoder().feed(answer.body + b"\n\n")
    names = [event.name for event in events]
    require("end" in names, f"the stream has no end event; its events are {', '.join(names[:8]) or 'none'}")
    text = "".join(event.data for event in events if event.name in ("chunk", "end"))
    return as_object(Answer("POST /call", 200, {}, text.encode()).json(), "the result")


@_states("3.5")
async def unknown_tool(server: Server) -> str:
    """Calling a tool that does not exist answers with a stream that ends with ok:false."""
    result = await _call(server, f"no_such_tool_{uuid.uuid4().hex[:8]}", {})
    require(result.get("ok") is False, f"the call was accepted: {shown(result)}")
    return f"refused: {shown(result.get('error'))}"


@_states("3.6", Level.RECOMMENDED, REFERENCE)
async def reason_of_refusal(server: Server) -> str:
    """A refusal has a reason: that of an unknown tool is not_found."""
    result = await _call(server, f"no_such_tool_{uuid.uuid4().hex[:8]}", {})
    require(result.get("reason") == "not_found", f"the reason is {shown(result.get('reason'))}")
    return "not_found"


@_states("3.7", Level.RECOMMENDED)
async def wrong_input(server: Server) -> str:
    """Calling a tool with input that its schema forbids answers with ok:false and the reason input_validation."""
    for tool in await server.open_session.list_tools():
        schema = Schema(tool.input_schema)
        names: Mapping[str, Any] = schema.document.get("properties") or {}
        values: tuple[Any, ...] = ([], "wrong")
        candidates: list[dict[str, Any]] = [{}, *({name: value} for name in names for value in values)]
        wrong = next((candidate for candidate in candidates if not schema.is_valid(candidate)), None)
        if wrong is not None:
            called = f"{tool.name}({json.dumps(wrong)})"
            output = await server.open_session.call_tool(tool.name, wrong)
            require(not output.ok, f"{called} was accepted")
            require(output.reason == "input_validation", f"{called}: the reason is {output.reason!r}")
            return f"{called} refused with input_validation"
    raise DoesNotApplyError("no tool's schema forbids any of the tried inputs")


@_states("3.8", Level.RECOMMENDED)
async def ping(server: Server) -> str:
    """POST /ping keeps a session alive."""
    answer = await server.ask("POST", "/ping", {}, server.of_session())
    require(200 <= answer.status < 300, f"it answered {answer.status}")
    return "ok"


@_states("3.9")
async def sessions_are_apart(server: Server) -> str:
    """Two sessions of one task are open at once, each with its own id."""
    first = server.open_session
    async with server.client.session(
        server.env_name, split=server.split, index=server.index, secrets=server.secrets or None
    ) as second:
        require(first.id != second.id, "both have the same id")
        await second.get_prompt()
    await first.get_prompt()
    return "closing one leaves the other open"


@_states("3.10", Level.RECOMMENDED, REFERENCE)
async def call_is_replayed(server: Server) -> str:
    """A call sent again with its task_id returns the same result and runs nothing."""
    body: dict[str, Any] = {"name": "no_such_tool", "input": {}}
    headers = {**server.of_session(), "Accept": "text/event-stream"}
    first = await server.ask("POST", f"{server.env_path}/call", body, headers)
    ids = [event.data.strip() for event in EventDecoder().feed(first.body + b"\n\n") if event.name == "task_id"]
    require(ids, "the stream of a call does not begin with a task_id")
    again = await server.ask("POST", f"{server.env_path}/call", body | {"task_id": ids[0]}, headers)
    ended = [event.name for event in EventDecoder().feed(again.body + b"\n\n")]
    require(
        again.status == 200 and "end" in ended, f"it answered {again.status}, {', '.join(ended[:8]) or 'no events'}"
    )
    return "replayed"


@_states("3.11")
async def deleted_session(server: Server) -> str:
    """After POST /delete the session is gone: its requests are answered 404 or 410."""
    session = server.open_session
    await session.close()
    return await _is_unknown(server, session.id, "deleted")


@_states("3.12")
async def unknown_session(server: Server) -> str:
    """A session id that the server did not issue is unknown to it: 404 or 410."""
    return await _is_unknown(server, str(uuid.uuid4()), "unknown")


@_states("3.13", Level.RECOMMENDED, "ors-gym")
async def same_task(server: Server) -> str:
    """A reopened task is the same episode, as groups, evaluations and replays assume."""
    server.need_tasks()
    report = await probe_tasks(
        server.client,
        server.env_name,
        server.split,
        num_tasks=NUM_TASKS if server.plays else 2,
        num_moves=NUM_MOVES if server.plays else 0,
        at_once=server.plays,
        secrets=server.secrets or None,
        seconds=50.0,
    )
    failed = [str(each) for each in report.findings if each.holds is False]
    require(not failed, "; ".join(failed))
    return "; ".join(each.message for each in report.findings) or "one task"


async def _is_unknown(server: Server, session_id: str, what: str) -> str:
    body: dict[str, Any] = {"name": "no_such_tool", "input": {}}  # a POST: no cache answers it
    answer = await server.ask("POST", f"{server.env_path}/call", body, server.of_session(session_id))
    require(answer.status in (404, 410), f"/call in a session that is {what} answered {answer.status}")
    return f"answers {answer.status}"


# ------------------------------------------------------------------- 4: extensions


@_states("4.1", Level.EXTENSION, REFERENCE)
async def messages(server: Server) -> str:
    """GET /{env}/messages returns the task as a conversation."""
    async with _another_session(server) as session:
        answer = await server.ask("GET", f"{server.env_path}/messages", headers=server.of_session(session.id))
    return f"{len(as_list(answer.json(), 'the answer'))} messages"


@_states("4.2", Level.EXTENSION, "ors-gym")
async def client_task_ids(server: Server) -> str:
    """A client may choose a call's task_id, so that a call without any response can be sent again."""
    async with _another_session(server):
        names = server.client.connection.names_tasks
    require(names, "not offered")
    return "offered"


def _another_session(server: Server) -> Any:
    server.need_tasks()
    return server.client.session(
        server.env_name, split=server.split, index=server.index, secrets=server.secrets or None
    )
