"""One environment instance: setup, prompt, tools, scores and teardown.

Synchronous methods run on the episode's own thread, asynchronous ones on the event loop. Exceptions of the environment
pass through; the caller reports them to the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from ors_gym.http.answers import RefusedError
from ors_gym.types import GroupCandidate, Message, ToolOutput
from ors_gym_server.authoring.tools import CallOrder, ToolFinder, declared_tools, refusal_of, tool_list
from ors_gym_server.runtime.hosting import HostedEnvironment
from ors_gym_server.runtime.scheduling import CallScheduler
from ors_gym_server.runtime.wire import (
    blocks_wire,
    encode,
    encode_output,
    encode_refusal,
    encode_scores,
    flatten_messages,
    message_wire,
    tool_list_wire,
)
from ors_gym_server.threads import SessionThread, current_thread, run_user

__all__ = ["EnvironmentInstance"]


class EnvironmentInstance:
    """An instance of an environment class, from its constructor to its teardown."""

    def __init__(self, hosted: HostedEnvironment) -> None:
        self._hosted = hosted
        self._worker: SessionThread | None = None
        self._beside: list[SessionThread] = []
        """Threads of concurrent tools that still run after their calls were ended."""
        self._environment: Any = None
        self._toolset: Any = None
        self._finder: ToolFinder | None = None
        self._turns = CallScheduler()
        self._finished = False
        self._ended = False

    async def begin(self, task_spec: Mapping[str, Any], secrets: Mapping[str, str], toolset: str | None) -> None:
        """Make the instance."""
        hosted = self._hosted
        toolset_class = None if toolset is None else hosted.named_toolset(toolset)
        # A copy, because all sessions share the list of tasks and some environments modify theirs.
        self._environment = await self._run(lambda: hosted.cls(task_spec=copy.deepcopy(task_spec), secrets=secrets))
        if toolset_class is not None:
            try:
                self._toolset = await self._run(toolset_class, self._environment)
            except ValueError as error:  # the environment lacks what the toolset works on
                raise RefusedError(400, str(error)) from error
        if not (hosted.implements("call_tool") or hosted.implements("_call_tool")):
            self._finder = ToolFinder(self._environment, self._toolset)
        if not hosted.of_sdk:
            await self._user("claim")

    async def setup(self) -> None:
        """Run the environment's setup."""
        await self._user("setup")

    async def end(self, *, patience_seconds: float) -> None:
        """Tear down the instance once, after waiting a limited time for code that still runs on its thread."""
        if self._ended:
            return
        self._ended = True
        worker = self._worker
        try:
            running = [each for each in (worker, *self._beside) if each is not None and each.pending]
            await asyncio.gather(*(_wait_for(each, patience_seconds) for each in running))
            if worker is not None and worker.pending and not self._hosted.one_thread:
                self._worker = None  # a new thread for teardown, which may unblock the old one
            if self._environment is not None:
                patience = asyncio.timeout(patience_seconds)
                try:
                    async with patience:
                        await self._user("teardown")
                except TimeoutError:
                    if not patience.expired():  # the environment's own
                        raise
                    raise TimeoutError(f"it took longer than {patience_seconds:g} s, and is left behind") from None
        finally:
            for each in {worker, self._worker, *self._beside} - {None}:
                assert each is not None
                self._hosted.give_back(each)
            self._worker = None
            self._beside.clear()

    # ---------------------------------------------------------------- running the environment's code

    async def _run(self, fn: Any, *args: Any) -> Any:
        """Run synchronous code of the environment on the episode's thread."""
        return await self._thread().run(fn, *args)

    def _thread(self) -> SessionThread:
        if self._worker is None:
            self._worker = self._hosted.borrow_thread()
        return self._worker

    async def _run_beside(self, fn: Any, *args: Any) -> Any:
        """Run synchronous code of a concurrent tool on a separate thread."""
        worker = self._hosted.borrow_thread()
        try:
            return await worker.run(fn, *args)
        finally:
            if worker.pending and not self._ended and not self._hosted.one_thread:
                self._beside.append(worker)
            else:
                self._hosted.give_back(worker)

    async def _user(self, method: str, *args: Any) -> Any:
        """Call a method of the instance; the base class's default needs no thread."""
        if method in ("claim", "setup", "teardown") and not self._hosted.implements(method):
            return None
        current_thread.set(self._thread())
        return await run_user(self._run, getattr(self._environment, method), *args)

    # ---------------------------------------------------------------- what a client reads

    async def prompt(self) -> bytes:
        """The prompt's blocks, as JSON."""
        if self._hosted.implements("get_prompt"):
            return encode(blocks_wire(await self._user("get_prompt"), "get_prompt"))
        return encode(flatten_messages(await self._messages()))

    async def messages(self) -> bytes:
        """The conversation, as JSON."""
        return encode(await self._messages())

    async def _messages(self) -> list[dict[str, Any]]:
        if self._hosted.implements("get_messages"):
            return [message_wire(message) for message in await self._user("get_messages")]
        blocks = blocks_wire(await self._user("get_prompt"), "get_prompt")
        return [{"role": "user", "blocks": blocks, "detail": None}]

    async def tools(self) -> bytes:
        """The tools of this episode: the class's, the task's and the named toolset's, which comes first."""
        listed = dict(self._hosted.tools)
        specs: list[dict[str, Any]] = list(listed["tools"])
        if self._hosted.implements("list_task_tools"):
            specs += tool_list_wire(await self._user("list_task_tools"))["tools"]
        if self._toolset is not None:
            extra = tool_list_wire(tool_list(declared_tools(type(self._toolset))))
            names = {spec["name"] for spec in extra["tools"]}
            specs = [spec for spec in specs if spec["name"] not in names] + extra["tools"]
            listed["terminal_tool"] = extra["terminal_tool"] or listed["terminal_tool"]
        hidden = listed["terminal_tool"] and listed["terminal_tool"]["name"]
        return encode(listed | {"tools": [spec for spec in specs if spec["name"] != hidden]})

    # ---------------------------------------------------------------- calls

    async def call(self, name: str, input: Mapping[str, Any]) -> str:
        """The result of a tool call as JSON. The agent's mistakes are results; exceptions of the tool are raised."""
        finder = self._finder
        if finder is None:
            return await self._call_overridden(name, input)
        if not finder.ready:
            await self._run(finder.make_toolsets)
        tool = finder.find(name)
        if isinstance(tool, ToolOutput):
            return encode_refusal(tool.error, tool.reason)
        if self._finished:
            return _finished_refusal(name)
        turn = tool.turn
        await self._turns.take(name, turn)
        try:
            if self._finished:  # ended by the call that this one waited for
                return _finished_refusal(name)
            try:
                arguments = tool.arguments(input)
            except ValidationError as error:
                refusal = refusal_of(error)
                return encode_refusal(refusal.error, refusal.reason)
            run = self._run_beside if turn is CallOrder.CONCURRENT else self._run
            return self._result(name, await tool.call(run, arguments))
        finally:
            self._turns.give_back(name, turn)

    def _result(self, name: str, result: Any) -> str:
        text, finished = encode_output(name, result)
        if self._finished:  # a concurrent call ended the episode: the first end counts
            return _finished_refusal(name)
        self._finished = finished
        return text

    async def _call_overridden(self, name: str, input: Mapping[str, Any]) -> str:
        """Call the class's own ``call_tool``, one call at a time, because nothing is known of its tools."""
        if self._finished:
            return _finished_refusal(name)
        await self._turns.take("", CallOrder.SERIAL)
        try:
            if self._finished:
                return _finished_refusal(name)
            if self._hosted.implements("call_tool"):
                return self._result(name, await self._user("call_tool", name, input))
            result = (await self._user("_call_tool", name, input)).model_dump()
            self._finished = bool((result.get("output") or {}).get("finished"))
            return encode(result).decode()
        finally:
            self._turns.give_back("", CallOrder.SERIAL)

    async def score_group(self, candidates: Sequence[Mapping[str, Any]]) -> str:
        """The scores of the candidates, as JSON."""
        given: list[Any]
        if self._hosted.of_sdk:
            given = [self._hosted.sdk_record("GroupCandidate").model_validate(each) for each in candidates]
        else:
            given = [
                GroupCandidate(tuple(Message.from_wire(each) for each in one["messages"]), one.get("metadata"))
                for one in candidates
            ]
        return encode_scores(await self._user("score_group", given), len(given))


def _finished_refusal(name: str) -> str:
    error = f"{name!r} was not run: the episode has finished (a tool returned finished=True), so no further tool calls "
    return encode_refusal(error + "are accepted.", "episode_finished")


async def _wait_for(worker: SessionThread, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await worker.run(int)
