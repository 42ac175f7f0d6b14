"""A conversation with an environment, one exchange at a time; shared by ``gym.make``, the runner, Ray and TRL."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from ors_gym.errors import ORSError, StatusError, ToolFailedError
from ors_gym.rollouts.options import SessionOptions
from ors_gym.trajectory import Exchange, Reply, StopReason, Transition
from ors_gym.types import Block, Message, TerminalTool, ToolCall, ToolOutput
from ors_gym.types.shapes import JSONObject

__all__ = ["Conversation", "ToolSession", "observed_error", "run_all"]

T = TypeVar("T")

MAX_TOOL_ERRORS = 3
"""Messages in a row with tool errors, without another call between them, that fail an episode."""


class ToolSession(Protocol):
    """The part of a :class:`~ors_gym.Session` that exchanges use."""

    async def call_tool(self, name: str, input: JSONObject | None = None) -> ToolOutput:
        """Call a tool, at most once."""
        ...

    async def ping(self) -> None:
        """Check that the session exists; raises an ORSError if not."""
        ...


class Conversation:
    """The exchanges of one episode on its session.

    Args:
        session: Where the tools are called.
        prompt: The environment's prompt.
        terminal_tool: The tool for a plain message; None if the environment has none.
        options: The session's options.
    """

    def __init__(
        self,
        session: ToolSession,
        prompt: Iterable[Message] = (),
        terminal_tool: TerminalTool | None = None,
        options: SessionOptions | None = None,
    ) -> None:
        self.exchanges: list[Exchange] = []
        self.prompt = tuple(prompt)
        self._messages = list(self.prompt)
        self._session = session
        self._terminal = terminal_tool
        self._options = options or SessionOptions()
        self._tool_errors = 0
        self._message_counted = False
        """Whether the errors of the message that is played are counted: one message is one attempt."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole conversation, prompt first."""
        return tuple(self._messages)

    @property
    def finished(self) -> bool:
        """Whether the environment ended the episode."""
        return bool(self.exchanges) and self.exchanges[-1].finished

    @property
    def end(self) -> StopReason | None:
        """How the environment ended the episode; None while it is running.

        ORS has one flag for both ends; an environment served from Gymnasium tells them apart in the metadata.
        """
        if not self.finished:
            return None
        ends = [step.output for step in self.exchanges[-1].transitions if step.output.finished]
        cut = bool(ends) and all(output.cut_short for output in ends)
        return StopReason.ENVIRONMENT_LIMIT if cut else StopReason.FINISHED

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the episode ended with the last message; None while it is running or if a runner's limit ended it."""
        if not self.exchanges:
            return None
        last = self.exchanges[-1]
        if last.finished:
            return self.end
        if last.reply.truncated:
            return StopReason.MAX_TOKENS
        return None if last.reply.tool_calls or last.outputs else StopReason.POLICY_STOPPED

    async def play(self, reply: Reply) -> Exchange:
        """Take the agent's next message, call its tools, and return the exchange.

        Tools are called in order, or concurrently where allowed; after the end of the episode none are called. A plain
        message goes to the terminal tool. A message that was cut off or could not be read calls no tool.

        Raises:
            ORSError: a call failed. Outputs of earlier and concurrent calls are in the last of ``exchanges``.
        """
        exchange = self._named(reply)
        self._message_counted = False
        transitions: list[Transition] = []
        try:
            if not (reply.truncated or reply.error is not None):
                await self._call_tools(exchange, transitions)
        except ORSError:
            if not self._ended(transitions):  # the end by an earlier or concurrent call counts
                raise
        finally:
            played = replace(exchange, transitions=tuple(transitions), finished=self._ended(transitions))
            self._record(played)
        return played

    def say(self, reply: Reply) -> Exchange:
        """Take the agent's next message without calling tools."""
        return self._record(self._named(reply))

    def notify(self, *notices: Block) -> Exchange:
        """Add ``notices`` for the agent after the outputs of its last message."""
        last = self.exchanges.pop()
        del self._messages[-1 - len(last.heard()) :]
        return self._record(replace(last, notices=(*last.notices, *notices)))

    def _record(self, exchange: Exchange) -> Exchange:
        self.exchanges.append(exchange)
        self._messages += (exchange.said(), *exchange.heard())
        return exchange

    def _named(self, reply: Reply) -> Exchange:
        """A new exchange for ``reply``, whose calls get unique ids."""
        number = len(self.exchanges)
        calls: dict[str, ToolCall] = {}
        for place, call in enumerate(reply.tool_calls):
            call_id = call.id or f"call_{number}_{place}"
            while call_id in calls:
                call_id += "_"
            calls[call_id] = replace(call, id=call_id)
        return Exchange(replace(reply, tool_calls=tuple(calls.values())))

    async def _call_tools(self, exchange: Exchange, transitions: list[Transition]) -> None:
        reply, terminal = exchange.reply, self._terminal
        if not reply.tool_calls and terminal is not None:
            arguments = {} if terminal.arg is None else {terminal.arg: reply.text}
            await self._call_at_once([ToolCall(terminal.name, arguments)], transitions)
        for at_once, neighbours in itertools.groupby(reply.tool_calls, self._may_run_at_once):
            for batch in [list(neighbours)] if at_once else [[call] for call in neighbours]:
                await self._call_at_once(batch, transitions)
                if self._ended(transitions):
                    return

    def _ended(self, transitions: Iterable[Transition]) -> bool:
        """Whether one of them ended the episode.

        The terminal tool does if it accepts its input, also without the server's ``finished``. A call refused because
        the episode is over means that it ended before.
        """
        terminal = self._terminal and self._terminal.name
        return any(
            step.output.finished
            or (step.output.ok and step.action.name == terminal)
            or step.output.reason == "episode_finished"
            for step in transitions
        )

    def _may_run_at_once(self, call: ToolCall) -> bool:
        allowed = self._options.get("parallel_tool_calls", False)
        return allowed if isinstance(allowed, bool) else call.name in allowed

    async def _call_at_once(self, calls: Sequence[ToolCall], transitions: list[Transition]) -> None:
        """Make calls concurrently, wait for all, and add their outputs in order.

        Calls concurrent with one that ends the episode are running already, so their rewards count.
        """
        answers: list[Transition | None] = [None] * len(calls)

        async def call_tool(place: int) -> None:
            call, called = calls[place], time.monotonic()
            output = await self._call_tool(call)
            answers[place] = Transition(call, output, time.monotonic() - called)

        try:
            await (call_tool(0) if len(calls) == 1 else run_all(map(call_tool, range(len(calls)))))
        finally:
            transitions += filter(None, answers)

    async def _call_tool(self, call: ToolCall) -> ToolOutput:
        """Call a tool; tool errors become outputs, unless the options or the count of errors forbid it."""
        try:
            output = await self._session.call_tool(call.name, call.input)
        except ORSError as error:
            observed = observed_error(error)
            if observed is None:
                raise
            output = observed
            if output.tool_raised:
                self._tool_errors += not self._message_counted
                self._message_counted = True
                if self._options.get("tool_errors") == "fail" or self._tool_errors >= MAX_TOOL_ERRORS:
                    raise
            await self._session.ping()  # if the session is gone too, the episode fails
        if not output.tool_raised:
            self._tool_errors, self._message_counted = 0, False
        return output


def observed_error(error: ORSError) -> ToolOutput | None:
    """The output for a call that failed while its session continues; None for other errors.

    Such calls are those whose tool raised, and those that the server answers with 400.
    """
    if isinstance(error, ToolFailedError):
        return ToolOutput(ok=False, error=f"Error: {error.message}", reason="tool_error")
    if isinstance(error, StatusError) and error.status == 400 and not error.may_have_run:
        return ToolOutput(ok=False, error=f"the call was refused: {error.detail}", reason="input_validation")
    return None


async def run_all(coroutines: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """Run all at once, results in order. The first exception cancels the others, which close their sessions."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as error:
        raise error.exceptions[0] from None
    return [task.result() for task in tasks]
