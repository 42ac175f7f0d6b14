"""A session: one episode on a server.

The states of a session::

    NEW ──open──▶ OPENING ──created──▶ OPEN ──close──▶ CLOSED
                     │                   │
                     └─ failed ─▶ LOST ◀─┘ gone, or the end of a call is unknown

A call that fails after its tool may have run makes the session LOST, and so does a cancelled call. A LOST session is
deleted on the server at once and never used again. The session stays OPEN after a call whose tool raised, as reported
by the server, and after a call that certainly did not run (a 4xx, no connection, a full server).
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from types import TracebackType
from typing import Any, Self, TypeVar

from ors_gym.client.connection import Connection
from ors_gym.client.creation import Creation
from ors_gym.client.remote_session import RemoteSession
from ors_gym.client.tool_call import Call
from ors_gym.errors import (
    NotFoundError,
    ORSError,
    ProtocolError,
    SessionClosedError,
    SessionError,
    SessionLostError,
    StatusError,
    ToolFailedError,
)
from ors_gym.types import (
    Block,
    GroupCandidate,
    GroupScore,
    Message,
    Task,
    ToolList,
    ToolOutput,
)
from ors_gym.types.messages import (
    blocks_from_wire,
)
from ors_gym.types.shapes import (
    required,
    sequence,
)

__all__ = ["Session", "SessionState"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

FRESH_SECONDS = 30.0
"""A session not found this soon after its creation was probably created on another server behind a balancer."""


class SessionState(StrEnum):
    """The state of a session."""

    NEW = "new"
    """No request was sent yet."""
    OPENING = "opening"
    """It is being created."""
    OPEN = "open"
    """It can be used."""
    LOST = "lost"
    """The server no longer has it, or it was given up after a call whose end is unknown. Never used again."""
    CLOSED = "closed"
    """It was deleted at the end of the episode."""


class Session:
    """One episode on a server, made by :meth:`ORSClient.session` and used as an async context manager.

    It is created on entering and deleted on leaving, also on exceptions and cancellation.
    """

    def __init__(
        self,
        connection: Connection,
        env_name: str,
        creation: Creation,
        find_task: Callable[[str, str, int], Awaitable[Task]],
    ) -> None:
        self.env_name = env_name
        self.state = SessionState.NEW
        self.finished = False
        """Whether a call has answered ``finished``: the episode is over."""
        self._connection = connection
        self._toolset = creation.toolset
        self._remote = RemoteSession(connection, creation, find_task)
        self._created_at = 0.0
        self._used = False
        self._tools: ToolList | None = None
        self._gone = False
        self._cause = ""
        self._deletion: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Session {self.id or '(no id yet)'} of {self.env_name!r}, {self.state}>"

    @property
    def id(self) -> str:
        """The server's id, empty before there is one."""
        return self._remote.id

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # ---------------------------------------------------------------- opening and closing

    async def open(self) -> None:
        """Create the session on the server: two requests.

        Raises:
            TransportError, StatusError, ProtocolError: it could not be created; nothing is left on the server.
        """
        if self.state is not SessionState.NEW:
            raise SessionClosedError(f"a session is opened once, and this one is {self.state}").at(session_id=self.id)
        if self._connection.closed:
            raise SessionClosedError("the client is closed")
        self.state = SessionState.OPENING
        try:
            await self._remote.create(self.env_name)
        except BaseException as error:
            self.state = SessionState.LOST
            self._cause = f"it could not be opened: {_named(error)}"
            raise
        self.state = SessionState.OPEN
        self._created_at = time.monotonic()
        self._connection.pinger.touch(self)

    async def close(self) -> None:
        """Delete the session on the server; does nothing the second time.

        The deletion continues in the background when this is cancelled. It never raises: failures are logged, and the
        server drops the session after its expiry.
        """
        if self.state is SessionState.OPEN:
            self.state = SessionState.CLOSED
            self._start_deletion()
        elif self.state is SessionState.NEW:
            self.state = SessionState.CLOSED
        if self._deletion is not None:
            await asyncio.shield(self._deletion)

    def _start_deletion(self) -> None:
        self._connection.pinger.remove(self)
        if self._deletion is None:
            self._deletion = self._remote.start_deletion(gone=self._gone)

    def _give_up(self, cause: str, *, gone: bool = False) -> None:
        """Enter the state LOST and delete the session on the server."""
        if self.state is SessionState.OPEN:
            self.state = SessionState.LOST
            self._cause = cause
            self._gone = gone
            self._start_deletion()

    # ---------------------------------------------------------------- requests

    def _require_open(self) -> None:
        if self.state is SessionState.OPEN:
            return
        if self.state is SessionState.LOST:
            raise SessionLostError(f"the session is lost: {self._cause}").at(session_id=self.id)
        raise SessionClosedError(f"the session is {self.state}").at(session_id=self.id)

    async def _get(self, path: str, read: Callable[[Any], T], *, optional: bool = False) -> T | None:
        """Read something of this session; None for an ``optional`` route that the server lacks."""
        self._require_open()
        self._connection.pinger.touch(self)
        try:
            answer = await self._remote.get(path, read)
            self._used = True
            return answer
        except ORSError as error:
            if optional and isinstance(error, NotFoundError):
                return None
            raise self._noted(error) from error.__cause__

    def _noted(self, error: ORSError) -> ORSError:
        """Add the session to an error; a 404 makes it LOST."""
        error.at(session_id=self.id)
        if not isinstance(error, StatusError) or error.status not in (404, 410):
            return error
        self._give_up(error.brief, gone=True)
        what = f"the server does not know the session ({error.message})"
        if not self._used and time.monotonic() - self._created_at < FRESH_SECONDS:
            what += ", which was created a moment ago: a balancer must keep the requests with one X-Session-ID together"
        lost = SessionLostError(what)
        return lost.at(error.where, session_id=self.id, tool=error.tool, may_have_run=error.may_have_run)

    async def get_prompt(self) -> tuple[Block, ...]:
        """The task as text and images. The server may hold the answer until the environment is set up."""
        prompt = await self._get("/prompt", _read_prompt)
        assert prompt is not None
        return prompt

    async def get_messages(self) -> tuple[Message, ...]:
        """The task as a conversation; on servers without ``/messages`` the prompt as one user message."""
        messages = await self._get("/messages", _read_messages, optional=True)
        if messages is None:  # an older server or a lost session: the prompt tells
            messages = (Message("user", await self.get_prompt()),)
        return messages

    async def list_tools(self) -> ToolList:
        """The tools of this session, which may be more than the environment's."""
        if self._tools is None:
            tools = await self._get("/task_tools", ToolList.from_wire, optional=True)
            self._tools = tools if tools is not None else await self._connection.list_tools(self.env_name)
        return self._tools

    async def ping(self) -> None:
        """Keep the session alive on the server. The client does this for idle sessions."""
        self._require_open()
        connection = self._connection
        try:
            if connection.answers_pings is not False:
                await self._remote.ping()
                connection.answers_pings = self._used = True
                return
        except ORSError as error:
            if connection.answers_pings or not isinstance(error, NotFoundError):
                raise self._noted(error) from error.__cause__
        await self.get_prompt()  # the session is there, so it is /ping that is not: any request is a sign of life
        connection.answers_pings = False

    # ---------------------------------------------------------------- calls

    async def call_tool(self, name: str, input: Mapping[str, Any] | None = None) -> ToolOutput:
        """Call a tool, at most once.

        Returns:
            The tool's output. A call that the environment refused (unknown tool, bad input, episode finished) has
            ``ok=False`` and is an observation for the agent.

        Raises:
            ToolFailedError: the tool raised. The session stays open.
            SessionLostError: the server no longer has the session.
            AmbiguousCallError: the call was cut off, and whether it ran is unknown.
            CallTimeoutError: it took longer than ``Timeouts.call_seconds``.
            ORSError: anything else; ``may_have_run`` says whether the tool may have run.
        """
        self._require_open()
        try:
            call = self._call("/call", {"name": name, "input": _mapping(input)})
        except ValueError as error:
            return ToolOutput(ok=False, error=f"the input is no JSON: {error}", reason="input_validation")
        try:
            output = await self._run(call, name, ToolOutput.from_wire)
        except StatusError as refused:
            if refused.status not in (413, 422):
                raise
            reason = "is larger than what is taken" if refused.status == 413 else "is not taken"
            return ToolOutput(ok=False, error=f"the input {reason}: {refused.detail}", reason="input_validation")
        self._used = True
        self.finished = self.finished or output.finished
        return output

    def _call(self, path: str, payload: Mapping[str, Any]) -> Call:
        task_id = uuid.uuid4().hex if self._connection.names_tasks else None
        return Call(self._connection.sender, self._remote.call_request(path), payload, task_id=task_id)

    async def _run(self, call: Call, tool: str, read: Callable[[Any], T]) -> T:
        """Run a tool call, and give up the session if the outcome is unknown."""
        self._connection.pinger.touch(self)
        try:
            return await call.run(read)
        except ORSError as error:
            error = self._noted(error.at(tool=tool))
            # The server reports that the tool raised: the call has ended and the session continues.
            if isinstance(error, SessionError) or (call.may_have_run and not isinstance(error, ToolFailedError)):
                self._give_up(error.brief)
            raise error from error.__cause__
        except BaseException:
            if call.may_have_run:
                self._give_up(f"the call of {tool!r} was given up by the caller")
            raise

    async def call_terminal_tool(self, message: str = "") -> ToolOutput:
        """Call the environment's terminal tool with the agent's final plain message.

        Raises:
            ValueError: the environment has none (see ``ToolList.terminal_tool``).
        """
        tools = self._tools
        if tools is None and self._toolset is None:
            tools = await self._connection.known_tools(self.env_name)
        if tools is None:
            tools = await self.list_tools()
        terminal = tools.terminal_tool
        if terminal is None:
            raise ValueError(f"{self.env_name!r} has no terminal tool; look at list_tools().terminal_tool first")
        return await self.call_tool(terminal.name, {} if terminal.arg is None else {terminal.arg: message})

    async def score_group(self, candidates: Sequence[GroupCandidate | Sequence[Message]]) -> tuple[GroupScore, ...]:
        """Score the trajectories of a group against each other, on environments with ``supports_score_group``.

        Scoring does not change the environment, so a failure does not end the session.

        Returns:
            One score for each candidate, in order.
        """
        self._require_open()
        group = [each if isinstance(each, GroupCandidate) else GroupCandidate(tuple(each)) for each in candidates]
        call = self._call("/score_group", {"candidates": [each.to_wire() for each in group]})
        self._connection.pinger.touch(self)
        try:
            scores = await call.run(_read_scores)
        except ORSError as error:
            if isinstance(error, NotFoundError):
                await self.ping()  # the session is there, so it is the scoring that is not
            raise error.at(session_id=self.id, tool="score_group") from error.__cause__
        if len(scores) != len(group):
            raise ProtocolError(f"{len(scores)} scores for {len(group)} candidates").at(call.where, session_id=self.id)
        return scores


def _named(error: BaseException) -> str:
    return error.brief if isinstance(error, ORSError) else str(error) or type(error).__name__


def _mapping(value: object) -> dict[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"a tool's input is a mapping of argument names to JSON values, got {type(value).__name__}")
    fields: Mapping[Any, Any] = value  # pyright: ignore[reportUnknownVariableType]
    return dict(fields)


def _read_prompt(wire: Any) -> tuple[Block, ...]:
    return blocks_from_wire(wire, "prompt")


def _read_messages(wire: Any) -> tuple[Message, ...]:
    return tuple(Message.from_wire(message) for message in sequence(wire, "messages"))


def _read_scores(wire: Any) -> tuple[GroupScore, ...]:
    return tuple(GroupScore.from_wire(score) for score in sequence(required(wire, "scores", "group scores"), "scores"))
