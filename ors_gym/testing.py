"""The conformance kit: whether a server speaks ORS as agents and trainers expect.

For the authors of environments and servers. In a test::

    def test_my_server_speaks_ors():
        report = asyncio.run(check_server("http://localhost:8080"))
        assert report.ok, report

Each check is a statement of the Open Reward Standard (openrewardstandard.io, HTTP API) and of its reference
implementation. The checks open sessions and close them. They call tools only in ways that a server must refuse, so
nothing of the environment runs beyond its set-up and tear-down.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias, cast
from urllib.parse import quote

import httpx
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from ors_gym.client.client import ORSClient
from ors_gym.client.session import Session
from ors_gym.errors import ConnectError, ORSError
from ors_gym.spaces.schemas import Schema
from ors_gym.types import ToolList

__all__ = ["Check", "CheckReport", "Outcome", "check_server"]


class Outcome(StrEnum):
    """How a check came out."""

    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"
    """It does not apply, or what it builds on failed."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, the statement of the protocol it stands for, how it came out and what was seen."""

    name: str
    statement: str
    outcome: Outcome
    message: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All checks of one environment of a server, in the order they ran. As a string, a line for each."""

    url: str
    env_name: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Nothing failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.outcome is Outcome.FAIL)

    def __str__(self) -> str:
        lines = [f"{check.outcome}  {check.name}: {check.message}" for check in self.checks]
        return "\n".join([f"{self.env_name or 'no environment'} at {self.url}", *lines])


class _NotAsStatedError(Exception):
    """The server did something else than the statement says."""


class _DoesNotApplyError(Exception):
    """The statement cannot be checked here."""


def _require(condition: object, message: str) -> None:
    if not condition:
        raise _NotAsStatedError(message)


@dataclass
class _Server:
    """The server under test, and what the checks learned of it so far."""

    url: str
    client: ORSClient
    http: httpx.AsyncClient
    """For statements about bare requests; the client would forgive what they forbid."""
    env_name: str = ""
    split: str = ""
    index: int = 0
    secrets: Mapping[str, str] = field(default_factory=dict[str, str])
    tools: ToolList | None = None
    num_tasks: dict[str, int] = field(default_factory=dict[str, int])
    session: Session | None = None
    reached: bool = True

    async def get(self, path: str) -> Any:
        return _json(await self.http.get(self.url + path))

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return _json(await self.http.post(self.url + path, json=body))

    @property
    def env_path(self) -> str:
        if not self.env_name:
            raise _DoesNotApplyError("no environment was found")
        return "/" + quote(self.env_name)

    @property
    def open_session(self) -> Session:
        if self.session is None:
            raise _DoesNotApplyError("no session could be opened")
        return self.session


def _json(response: httpx.Response) -> Any:
    request = f"{response.request.method} {response.request.url.path}"
    _require(response.status_code == 200, f"{request} answered {response.status_code}, not 200")
    try:
        return response.json()
    except ValueError:
        raise _NotAsStatedError(f"{request} answered something that is not JSON: {response.text[:80]!r}") from None


def _list(value: Any, what: str) -> Sequence[Any]:
    _require(isinstance(value, list), f"{what} is not a JSON array but {type(value).__name__}")
    return cast("Sequence[Any]", value)


def _object(value: Any, what: str) -> Mapping[str, Any]:
    _require(isinstance(value, dict), f"{what} is not a JSON object but {type(value).__name__}")
    return cast("Mapping[str, Any]", value)


def _names(values: Sequence[Any], what: str) -> list[str]:
    _require(all(isinstance(name, str) and name for name in values), f"{what} must have non-empty strings as names")
    repeated = {name for name in values if values.count(name) > 1}
    _require(not repeated, f"{what} with the same name: {sorted(repeated)}")
    return list(values)


async def health(server: _Server) -> str:
    """GET /health answers {"status": "ok"}."""
    answer = await server.get("/health")
    _require(answer == {"status": "ok"}, f"it answered {answer!r}")
    return "ok"


async def environments(server: _Server) -> str:
    """GET /list_environments names at least one environment."""
    names = _names(_list(await server.get("/list_environments"), "the list"), "environments")
    _require(names, "the list is empty")
    wanted, server.env_name = server.env_name or names[0], ""
    known = {name.lower(): name for name in names}
    _require(wanted.lower() in known, f"there is no {wanted!r} among {', '.join(names)}")
    server.env_name = known[wanted.lower()]
    return ", ".join(names)


async def splits(server: _Server) -> str:
    """GET /{env}/splits names at least one split, each of type train, validation or test."""
    answer = [_object(split, "a split") for split in _list(await server.get(f"{server.env_path}/splits"), "the list")]
    _require(answer, "the list is empty")
    names = _names([split.get("name") for split in answer], "splits")
    unknown = [repr(split.get("type")) for split in answer if split.get("type") not in ("train", "validation", "test")]
    _require(not unknown, f"unknown split types: {', '.join(unknown)}")
    _require(server.split in ("", *names), f"there is no split {server.split!r} among {', '.join(names)}")
    server.num_tasks = dict.fromkeys(names, 0)
    return ", ".join(names)


async def tools(server: _Server) -> str:
    """GET /{env}/tools lists tools with names, descriptions and schemas."""
    answer = _object(await server.get(f"{server.env_path}/tools"), "the answer")
    listed = _list(answer.get("tools"), "tools")
    names = _names([_object(tool, "a tool").get("name") for tool in listed], "tools")
    server.tools = ToolList.from_wire(answer)
    terminal = server.tools.terminal_tool
    _require(names or terminal, "there is neither a tool nor a terminal tool")
    silent = [tool.name for tool in server.tools if not str(tool.description).strip()]
    _require(not silent, f"tools without a description, which a model needs: {', '.join(silent)}")
    return ", ".join([*names, *([f"{terminal.name} (terminal)"] if terminal else [])])


async def tool_schemas(server: _Server) -> str:
    """A tool's input_schema is null, or a JSON Schema of an object."""
    if server.tools is None:
        raise _DoesNotApplyError("the tools are not known")
    for tool in server.tools:
        if tool.input_schema is None:
            continue
        try:
            Draft202012Validator.check_schema(tool.input_schema)
        except SchemaError as error:
            raise _NotAsStatedError(f"{tool.name}: no JSON Schema: {error.message}") from None
        kind = tool.input_schema.get("type")
        _require(kind == "object", f"{tool.name}: the schema's type is {kind!r}, not 'object'")
    return f"{len(server.tools)} checked"


async def num_tasks(server: _Server) -> str:
    """POST /{env}/num_tasks counts the tasks of a split; some split has at least one."""
    if not server.num_tasks:
        raise _DoesNotApplyError("no split was found")
    for split in server.num_tasks:
        answer = _object(await server.post(f"{server.env_path}/num_tasks", {"split": split}), "the answer")
        count: object = answer.get("num_tasks")
        if not isinstance(count, int) or count < 0:
            raise _NotAsStatedError(f"split {split!r}: it answered {answer!r}")
        server.num_tasks[split] = count
    server.split = server.split or max(server.num_tasks, key=lambda split: server.num_tasks[split] > 0)
    found = server.num_tasks[server.split]
    _require(found > server.index, f"split {server.split!r} has {found} tasks, so no task {server.index}")
    return ", ".join(f"{split} {number:,}" for split, number in server.num_tasks.items())


def _require_tasks(server: _Server) -> None:
    if server.num_tasks.get(server.split, 0) <= server.index:
        raise _DoesNotApplyError("no task was found")


async def task(server: _Server) -> str:
    """POST /{env}/task gives the task at an index, a JSON object, and the same one each time."""
    _require_tasks(server)
    body = {"split": server.split, "index": server.index}
    first, second = [await server.post(f"{server.env_path}/task", body) for _ in range(2)]
    _object(_object(first, "the answer").get("task"), "the task")
    _require(first == second, "asked twice, it gave two different tasks")
    return f"{server.split}[{server.index}]"


async def task_out_of_range(server: _Server) -> str:
    """POST /{env}/task refuses an index beyond the last task with a 4xx status."""
    _require_tasks(server)
    body = {"split": server.split, "index": server.num_tasks[server.split]}
    status = (await server.http.post(f"{server.url}{server.env_path}/task", json=body)).status_code
    _require(400 <= status < 500, f"it answered {status}")
    return f"refused with {status}"


async def session_opens(server: _Server) -> str:
    """POST /create_session and /create open a session of a task."""
    _require_tasks(server)
    session = server.client.session(
        server.env_name, split=server.split, index=server.index, secrets=server.secrets or None
    )
    await session.open()
    server.session = session
    return "open"


async def prompt(server: _Server) -> str:
    """GET /{env}/prompt gives at least one block of text or image."""
    blocks = await server.open_session.get_prompt()
    _require(blocks, "the prompt is empty")
    return ", ".join(block.type for block in blocks)


async def session_tools(server: _Server) -> str:
    """GET /{env}/task_tools lists the tools of this very session."""
    names = (await server.open_session.list_tools()).names
    return ", ".join(names) or "none"


async def unknown_tool(server: _Server) -> str:
    """Calling a tool that does not exist answers ok:false with reason not_found."""
    output = await server.open_session.call_tool(f"no_such_tool_{uuid.uuid4().hex[:8]}", {})
    _require(not output.ok, "the call was accepted")
    _require(output.reason == "not_found", f"the reason is {output.reason!r}")
    return "refused with not_found"


async def wrong_input(server: _Server) -> str:
    """Calling a tool with input that its schema forbids answers ok:false with reason input_validation."""
    for tool in await server.open_session.list_tools():
        schema = Schema(tool.input_schema)
        names: Mapping[str, Any] = schema.document.get("properties") or {}
        values: tuple[Any, ...] = ([], "wrong")
        candidates: list[dict[str, Any]] = [{}, *({name: value} for name in names for value in values)]
        wrong = next((candidate for candidate in candidates if not schema.is_valid(candidate)), None)
        if wrong is not None:
            output = await server.open_session.call_tool(tool.name, wrong)
            _require(not output.ok, f"{tool.name}({wrong}) was accepted")
            _require(output.reason == "input_validation", f"{tool.name}({wrong}): the reason is {output.reason!r}")
            return f"{tool.name}({wrong}) refused with input_validation"
    raise _DoesNotApplyError("no tool's schema forbids anything that could be tried")


async def ping(server: _Server) -> str:
    """POST /ping keeps a session alive."""
    await server.open_session.ping()
    return "ok"


async def sessions_are_apart(server: _Server) -> str:
    """Two sessions of one task are open at once, each with an id of its own."""
    first = server.open_session
    async with server.client.session(
        server.env_name, split=server.split, index=server.index, secrets=server.secrets or None
    ) as second:
        _require(first.id != second.id, "both have the same id")
        await second.get_prompt()
    await first.ping()
    return "closing one leaves the other open"


async def deleted_session(server: _Server) -> str:
    """After POST /delete and /delete_session the session is gone: 404 or 410."""
    session = server.open_session
    await session.close()
    status = (await server.http.post(f"{server.url}/ping", headers={"X-Session-ID": session.id})).status_code
    _require(status in (404, 410), f"/ping of a deleted session answered {status}")
    return f"answers {status}"


async def unknown_session(server: _Server) -> str:
    """A session id that the server never gave is unknown to it: 404 or 410."""
    headers = {"X-Session-ID": str(uuid.uuid4())}
    status = (await server.http.get(f"{server.url}{server.env_path}/prompt", headers=headers)).status_code
    _require(status in (404, 410), f"/prompt of an unknown session answered {status}")
    return f"answers {status}"


_Statement: TypeAlias = Callable[[_Server], Awaitable[str]]

STATEMENTS: tuple[_Statement, ...] = (
    health,
    environments,
    splits,
    tools,
    tool_schemas,
    num_tasks,
    task,
    task_out_of_range,
    session_opens,
    prompt,
    session_tools,
    unknown_tool,
    wrong_input,
    ping,
    sessions_are_apart,
    deleted_session,
    unknown_session,
)


async def check_server(
    url: str,
    *,
    env_name: str | None = None,
    split: str | None = None,
    index: int = 0,
    api_key: str | None = None,
    secrets: Mapping[str, str] | None = None,
    seconds_per_check: float = 60.0,
) -> CheckReport:
    """Check one environment of a server, the first unless ``env_name`` says which, with one task of one split.

    A fault of the server is a failed check, never an exception. ``secrets`` are what the environment needs to start.
    """
    checks: list[Check] = []
    async with _server(url, api_key) as server:
        server.env_name, server.split, server.index = env_name or "", split or "", index
        server.secrets = secrets or {}
        for statement in STATEMENTS:
            checks.append(await _check(statement, server, seconds_per_check))
            if not server.reached:
                break
    return CheckReport(server.client.url, server.env_name, tuple(checks))


@contextlib.asynccontextmanager
async def _server(url: str, api_key: str | None) -> AsyncGenerator[_Server, None]:
    headers = {"X-API-Key": api_key} if api_key else {}
    async with ORSClient(url, api_key=api_key) as client, httpx.AsyncClient(headers=headers, timeout=None) as http:
        server = _Server(url.rstrip("/"), client, http)
        try:
            yield server
        finally:
            if server.session is not None:
                await server.session.close()


async def _check(statement: _Statement, server: _Server, seconds: float) -> Check:
    outcome = Outcome.FAIL
    try:
        async with asyncio.timeout(seconds):
            message = await statement(server)
        outcome = Outcome.PASS
    except _DoesNotApplyError as reason:
        outcome, message = Outcome.SKIP, str(reason)
    except _NotAsStatedError as fault:
        message = str(fault)
    except (ConnectError, httpx.ConnectError) as error:
        server.reached = False
        message = f"the server was not reached: {error}"
    except TimeoutError:
        message = f"no answer within {seconds:g} seconds"
    except (ORSError, httpx.HTTPError) as error:
        message = f"{type(error).__name__}: {error}"
    return Check(statement.__name__, (statement.__doc__ or "").strip(), outcome, message)
