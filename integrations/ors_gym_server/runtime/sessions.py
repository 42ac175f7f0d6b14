"""The sessions of a server, from ``/create`` to teardown.

The states of a session::

    CONSTRUCTING ──▶ SETTING_UP ──▶ READY ──▶ CLOSED      teardown runs exactly once, on any path
          │              │
       (removed)       FAILED ──▶ CLOSED                  the failure is what requests are answered until then
"""

from __future__ import annotations

import asyncio
import logging
import os
import traceback
from collections import OrderedDict
from collections.abc import Coroutine, Mapping
from enum import StrEnum
from functools import cached_property
from typing import Any

from ors_gym.http.answers import RefusedError
from ors_gym.redaction import Redactor
from ors_gym_server.runtime.calls import CallTable, Results, RunningCall, cut, error_events, result_events
from ors_gym_server.runtime.episode import EnvironmentInstance
from ors_gym_server.runtime.hosting import HostedEnvironment
from ors_gym_server.runtime.limits import Limits
from ors_gym_server.runtime.wire import error_text

__all__ = ["ServerSession", "SessionState", "Sessions"]

logger = logging.getLogger(__name__)

BLOCKED_SECONDS = 0.5
"""Delay of the event loop that is logged, because something blocks it."""

MAX_REMEMBERED = 10_000
"""Number of ended sessions whose reason is remembered for errors."""


class SessionState(StrEnum):
    """The state of a session."""

    CONSTRUCTING = "constructing"
    """The environment's constructor runs."""
    SETTING_UP = "setting up"
    """Its ``setup`` runs; the tools may be listed already."""
    READY = "ready"
    """It can be used."""
    FAILED = "failed"
    """Its ``setup`` raised, and it was torn down."""
    CLOSED = "closed"
    """It was deleted, expired, or closed by the server."""


class ServerSession:
    """One session: an episode and its calls."""

    def __init__(
        self,
        id: str,
        episode: EnvironmentInstance,
        hosted: HostedEnvironment,
        secrets: Mapping[str, str],
        results: Results,
    ) -> None:
        self.id = id
        self._results = results
        self.episode = episode
        self.hosted = hosted
        self.state = SessionState.CONSTRUCTING
        self.last_used = 0.0
        self.calls: CallTable = {}
        self._table = results.add_table(self.calls)
        self.running: set[RunningCall] = set()
        self.constructed = asyncio.Event()
        self.set_up = asyncio.Event()
        self.failure = ""
        self.setup: asyncio.Task[None] | None = None
        self.closing: asyncio.Task[None] | None = None
        self._secrets = secrets.values()
        hosted.num_sessions += 1
        self._counted = True

    def forget_place(self) -> None:
        """Leave room for another session of the class."""
        if self._counted:
            self._counted = False
            self.hosted.num_sessions -= 1

    def keep(self, call: RunningCall, events: bytes) -> None:
        """Keep the end of a call for a client that resumes it."""
        self.running.discard(call)
        self.last_used = now = asyncio.get_running_loop().time()
        self._results.keep(self._table, call.task_id, events, now, heard=call.listeners > 0)

    def forget_results(self) -> None:
        """Drop the kept results."""
        self._results.remove_table(self._table)

    @cached_property
    def clean(self) -> Redactor:
        """Redact the session's secrets in a text."""
        return Redactor(self._secrets)

    def describe(self, error: BaseException) -> str:
        """The text of an environment's error for the client."""
        return cut(self.clean(error_text(error)))

    def log(self, what: str, error: BaseException) -> None:
        """Log an error of the environment with its traceback."""
        trace = self.clean("".join(traceback.format_exception(error)))
        logger.error("%s of environment %r, session %s:\n%s", what, self.hosted.name, self.id, trace.rstrip())


class Sessions:
    """All sessions of a server. Used from its event loop only."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.results = Results(limits.max_kept_bytes, limits.max_kept_seconds, limits.max_remembered_calls)
        self._sessions: dict[str, ServerSession] = {}
        self._ended: OrderedDict[str, str] = OrderedDict()
        """Why sessions ended, without those that their clients deleted."""
        self._closings: set[asyncio.Task[None]] = set()
        self._reaper: asyncio.Task[None] | None = None
        self._draining = False

    def __len__(self) -> int:
        return len(self._sessions)

    def find(self, sid: str) -> ServerSession:
        """The session, marked as used.

        Raises:
            RefusedError: 404, it does not exist; 410, the server closed it, with the reason.
        """
        session = self._sessions.get(sid)
        if session is None:
            if reason := self._ended.get(sid):
                raise RefusedError(410, reason)
            raise RefusedError(404, "Active environment not found")
        session.last_used = asyncio.get_running_loop().time()
        return session

    async def constructed(self, sid: str) -> ServerSession:
        """Wait until the session's environment is constructed."""
        session = self.find(sid)
        if not session.constructed.is_set():
            await self._wait(session, session.constructed)
        return self._usable(session)

    async def ready(self, sid: str) -> ServerSession:
        """Wait until the session's environment is set up."""
        session = self.find(sid)
        if session.state is SessionState.READY:
            return session
        if not session.set_up.is_set():
            await self._wait(session, session.set_up)
        return self._usable(session)

    async def _wait(self, session: ServerSession, event: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self.limits.setup_wait_seconds):
                await event.wait()
        except TimeoutError:
            raise RefusedError(503, "Environment still starting.", 2) from None
        finally:
            session.last_used = asyncio.get_running_loop().time()

    def _usable(self, session: ServerSession) -> ServerSession:
        if session.state is SessionState.CLOSED:
            raise RefusedError(410, self._ended.get(session.id) or "Session deleted")
        if session.state is SessionState.FAILED:
            raise RefusedError(500, session.failure)
        return session

    # ---------------------------------------------------------------- opening

    async def create(
        self,
        sid: str,
        hosted: HostedEnvironment,
        task_spec: Mapping[str, Any],
        secrets: Mapping[str, str],
        toolset: str | None,
    ) -> None:
        """Make a session and start its setup.

        Raises:
            RefusedError: 400, the id is taken; 429, the server is full; 500, the constructor raised.
        """
        if sid in self._sessions:
            raise RefusedError(400, "Session already exists")
        if self._draining:
            raise RefusedError(503, "the server is shutting down")
        if len(self._sessions) >= self.limits.max_sessions:
            text = f"the server is at its limit of {self.limits.max_sessions} sessions"
            raise RefusedError(429, text, 1)
        if hosted.max_sessions is not None and hosted.num_sessions >= hosted.max_sessions:
            text = f"environment {hosted.name!r} is at its limit of {hosted.max_sessions} sessions in one process"
            raise RefusedError(429, text, 1)
        session = ServerSession(sid, EnvironmentInstance(hosted), hosted, secrets, self.results)
        self._sessions[sid] = session  # before anything is awaited: a second /create of this id is refused
        session.last_used = asyncio.get_running_loop().time()
        self._watch()
        try:
            await session.episode.begin(task_spec, secrets, toolset)
        except BaseException as error:
            if self._sessions.get(sid) is session:  # it may be deleted already and its id reused
                del self._sessions[sid]
            session.state = SessionState.CLOSED
            session.forget_results()
            await self._end(session)
            if not isinstance(error, Exception) or isinstance(error, RefusedError):
                raise
            session.log("the constructor", error)
            raise RefusedError(500, session.describe(error)) from None
        finally:
            session.constructed.set()
        if session.closing is not None:
            raise RefusedError(410, "Session deleted")
        session.state = SessionState.SETTING_UP
        session.setup = asyncio.create_task(self._set_up(session))

    async def _set_up(self, session: ServerSession) -> None:
        try:
            await session.episode.setup()
            if session.closing is None:
                session.state = SessionState.READY
        except BaseException as error:
            if session.closing is not None:
                return
            session.state = SessionState.FAILED
            session.failure = session.describe(error)
            session.log("setup", error)
            await self._end(session)
        finally:
            session.set_up.set()

    # ---------------------------------------------------------------- calls

    def start(
        self, session: ServerSession, name: str, work: Coroutine[Any, Any, str], task_id: str | None
    ) -> RunningCall:
        """Run a call of a session; ``work`` returns its result."""
        if len(session.running) >= self.limits.max_calls_per_session:
            work.close()
            text = f"the session has {len(session.running)} calls under way, the limit"
            raise RefusedError(429, text, 1)
        loop = asyncio.get_running_loop()
        call = RunningCall(task_id or os.urandom(16).hex(), name, loop.time(), session.keep)
        session.calls[call.task_id] = call
        session.running.add(call)
        call.task = loop.create_task(_run(session, call, work))
        return call

    # ---------------------------------------------------------------- closing

    async def delete(self, sid: str) -> None:
        """Close a session and wait for its teardown. An ended session may be deleted again.

        Raises:
            RefusedError: 404, this server has never had it; another process of the same address may.
        """
        session = self._sessions.get(sid)
        if session is not None:
            await self.close(session, "Session deleted", remembered_as="")
        elif sid not in self._ended:
            raise RefusedError(404, "Active environment not found")

    async def close(self, session: ServerSession, reason: str, *, remembered_as: str | None = None) -> None:
        """End a session's calls with ``reason`` and tear it down."""
        await asyncio.shield(self._start_closing(session, reason, remembered_as=remembered_as))

    def _start_closing(
        self, session: ServerSession, reason: str, *, remembered_as: str | None = None
    ) -> asyncio.Task[None]:
        if session.closing is None:
            self._sessions.pop(session.id, None)
            self._ended[session.id] = reason if remembered_as is None else remembered_as
            while len(self._ended) > MAX_REMEMBERED:
                self._ended.popitem(last=False)
            session.closing = asyncio.create_task(self._close(session, reason))
            self._closings.add(session.closing)
            session.closing.add_done_callback(self._closings.discard)
        return session.closing

    async def _close(self, session: ServerSession, reason: str) -> None:
        failed = session.state is SessionState.FAILED  # then it was torn down, or is being
        session.state = SessionState.CLOSED
        tasks: list[asyncio.Task[None]] = []
        if session.setup is not None and not session.setup.done():
            tasks.append(session.setup)
            if not failed:
                session.setup.cancel()
        for call in list(session.running):
            call.finish(error_events(reason))
            if call.task is not None:
                tasks.append(call.task)
                call.task.cancel()
        session.set_up.set()
        if tasks:
            await asyncio.wait(tasks, timeout=self.limits.teardown_seconds)
        session.forget_results()
        await session.constructed.wait()
        if not failed:
            await self._end(session)

    async def _end(self, session: ServerSession) -> None:
        try:
            await session.episode.end(patience_seconds=self.limits.teardown_seconds)
        except BaseException as error:  # a SystemExit that got out of this task would end the server
            session.log("teardown", error)
        finally:
            session.forget_place()

    def reopen(self) -> None:
        """Accept sessions again after :meth:`close_all`, for another lifespan."""
        self._draining = False

    async def close_all(self) -> None:
        """Close every session and accept no new ones."""
        self._draining = True
        if self._reaper is not None:
            self._reaper.cancel()
        for session in list(self._sessions.values()):
            self._start_closing(session, "the server is shutting down")
        while self._closings:
            await asyncio.wait(self._closings)

    def _watch(self) -> None:
        if self._reaper is None or self._reaper.done():
            self._reaper = asyncio.create_task(self._reap())

    async def _reap(self) -> None:
        """Close expired sessions and calls."""
        limits = self.limits
        tick = min(1.0, limits.session_timeout_seconds / 4, limits.tool_timeout_seconds / 4)
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + tick
            await asyncio.sleep(tick)
            now = loop.time()
            if now - due > BLOCKED_SECONDS:
                logger.warning(
                    "the event loop, and with it every session, was held up for %.1f s: an asynchronous method does "
                    "not await what takes long; a synchronous one would run on a thread",
                    now - due,
                )
            self.results.expire(now)
            for session in list(self._sessions.values()):
                reason = self._overdue(session, now)
                if reason:
                    self._start_closing(session, reason)

    def _overdue(self, session: ServerSession, now: float) -> str:
        limits = self.limits
        for call in session.running:
            if now - call.started > limits.tool_timeout_seconds:
                return f"tool {call.tool!r} took longer than {limits.tool_timeout_seconds:g} s; the session is closed"
        if not session.running and now - session.last_used > limits.session_timeout_seconds:
            return f"the session was idle for {limits.session_timeout_seconds:g} s and has expired"
        return ""


async def _run(session: ServerSession, call: RunningCall, work: Coroutine[Any, Any, str]) -> None:
    """Run a call to its end, even if the tool raises."""
    try:
        events = result_events(await work)
    except asyncio.CancelledError:  # if the server had cancelled it, the call would have ended already
        events = error_events(f"CancelledError: tool {call.tool!r} was cancelled from within")
    except BaseException as error:  # including SystemExit
        session.log(f"tool {call.tool!r}", error)
        events = error_events(session.describe(error))
    call.finish(events)
