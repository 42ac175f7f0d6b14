"""The server as several processes on one machine: a proxy for the clients, and workers that hold the sessions.

A session's id determines its worker, so no table is needed and no session is lost when the proxy process is replaced.
The proxy runs no code of an environment, so a crash affects one worker and its own sessions. (If clients connected to
the workers directly, a crash would also cut requests that arrived at that worker for another one.)

Each worker has a listening socket on the loopback interface that belongs to the parent, as the public one does: when a
worker dies, requests for it wait in the socket until its replacement runs.

The parent only waits for signals and for children that end. It runs no event loop and no thread, so it can fork a new
child at any time, with the environment classes as they are: nothing has to be picklable.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import os
import signal
import socket
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from multiprocessing.context import ForkProcess
from multiprocessing.sharedctypes import RawArray
from types import FrameType
from typing import Any, Protocol

from ors_gym.http.answers import ASGIApp, RefusedError
from ors_gym.http.proxy import StickyProxy
from ors_gym_server.asgi.app import ORSApp

__all__ = ["Prefork", "Run", "WorkerBackends"]

logger = logging.getLogger(__name__)

TO_STOP = (signal.SIGTERM, signal.SIGINT)

SIGNALS = (*TO_STOP, signal.SIGCHLD)
"""Signals that the parent waits for."""

STARTING, ANSWERING, STOPPED = range(3)
"""States of a child; a stopped one has torn down its sessions and is about to exit."""

LOOK_SECONDS = 0.5
"""Interval at which the parent checks its children without a signal."""

EXIT_SECONDS = 5.0
"""Seconds that a stopped child may take to exit, while Python waits for threads and processes of environments."""

FRESH_SECONDS = 1.0
"""Grace period in which a placed session counts toward its worker's load."""


class Run(Protocol):
    """Serves an ASGI application on a socket until SIGTERM."""

    def __call__(
        self, app: ASGIApp, listener: socket.socket, ready: Callable[[], None], tick: Callable[[], None]
    ) -> None:
        """Call ``ready`` when it answers, and ``tick`` several times a second."""
        ...


class WorkerBackends:
    """The workers as backends of the proxy. The checksum of a session's id determines its worker."""

    def __init__(self, urls: Sequence[str], num_sessions: Sequence[int], max_sessions: int | None = None) -> None:
        self._urls = urls
        self._max_sessions = max_sessions
        self._num_sessions = num_sessions
        self._fresh: list[list[float]] = [[] for _ in urls]
        self._turns = itertools.cycle(urls)

    async def place(self) -> str:
        """A new session id on the worker with the fewest sessions."""
        if self._max_sessions is not None and min(self._num_sessions) >= self._max_sessions:
            text = f"each of the {len(self._urls)} processes is at its limit of {self._max_sessions} sessions"
            raise RefusedError(429, text, 1)
        now = time.monotonic()
        self._fresh = [[when for when in placed if when > now - FRESH_SECONDS] for placed in self._fresh]
        loads = [count + len(placed) for count, placed in zip(self._num_sessions, self._fresh, strict=True)]
        worker = loads.index(min(loads))
        self._fresh[worker].append(now)
        while self._worker(session_id := str(uuid.uuid4())) != worker:
            pass
        return session_id

    async def find(self, session_id: str) -> str:
        """The worker that holds a session."""
        return self._urls[self._worker(session_id)]

    async def any(self) -> str:
        """The next worker, round robin."""
        return next(self._turns)

    async def unreachable(self, url: str) -> RefusedError:
        """A worker's socket is always open, so its queue is full."""
        return RefusedError(503, "the server is busy", 1)

    def _worker(self, session_id: str) -> int:
        return zlib.crc32(session_id.encode()) % len(self._urls)


class Prefork:
    """Runs the processes until SIGTERM or Ctrl-C.

    Args:
        app: The application of each worker, made before the fork, so that errors are known and memory is shared.
        listener: Where clients connect.
        run: Serves an application in a child.
        num_workers: How many workers.
        entrance: Wraps the application of the proxy process.
        drain_seconds: How long ``run`` waits for requests to end when it stops.
    """

    def __init__(
        self,
        app: ORSApp,
        listener: socket.socket,
        run: Run,
        num_workers: int,
        *,
        entrance: Callable[[ASGIApp], ASGIApp] = lambda app: app,
        drain_seconds: float = 30.0,
    ) -> None:
        self._app = app
        self._listener = listener
        self._run = run
        self._entrance = entrance
        self._drain_seconds = drain_seconds
        self._sockets = [_loopback_socket() for _ in range(num_workers)]
        self._num_sessions: Any = RawArray("i", num_workers)
        self._states: Any = RawArray("b", num_workers + 1)
        """The states of the children: the workers, then the proxy."""
        self._children: list[ForkProcess] = []
        self._parent = os.getpid()
        self._woken, self._waking = socket.socketpair()
        """Receives a byte for each signal, and for each child that answers."""

    def run(self, started: Callable[[], None]) -> None:
        """Start all processes, call ``started`` when they answer, and replace those that die.

        Raises:
            RuntimeError: a process ended before it answered.
        """
        received = None
        with self._signals_noted():
            try:
                for index in range(len(self._states)):
                    self._children.append(self._start(index))
                announced = False
                while received is None:
                    received = self._wait(LOOK_SECONDS)
                    if received is None:
                        self._replace_the_dead()
                        if not announced and all(state == ANSWERING for state in self._states):
                            announced = True
                            started()
            finally:
                self._stop()
        signal.raise_signal(received)  # as a single-process server does after draining

    # ---------------------------------------------------------------- signals

    @contextlib.contextmanager
    def _signals_noted(self) -> Iterator[None]:
        """Turn signals into bytes on a socket.

        Not ``sigwait``: macOS never delivers to it a SIGCHLD that has its default action, nor has it a deadline there.
        """
        self._waking.setblocking(False)
        before = {signum: signal.signal(signum, _noted) for signum in SIGNALS}
        descriptor = signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(descriptor)
            for signum, handler in before.items():
                signal.signal(signum, handler)
            self._woken.close()
            self._waking.close()

    def _wait(self, seconds: float) -> int | None:
        """Wait until something happens; returns the signal that tells the server to stop, if one came."""
        sentinels = [child.sentinel for child in self._children if child.exitcode is None]
        if self._woken not in connection.wait([self._woken, *sentinels], seconds):
            return None
        return next((signum for signum in self._woken.recv(4096) if signum in TO_STOP), None)

    # ---------------------------------------------------------------- children

    def _start(self, index: int) -> ForkProcess:
        child = multiprocessing.get_context("fork").Process(target=self._live, args=(index,), name=self._name(index))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the child has its own handlers
        try:
            child.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return child

    def _live(self, index: int) -> None:
        os.setpgid(0, 0)  # Ctrl-C is the parent's to answer
        told_to_stop = False

        def remember(signum: int, frame: FrameType | None) -> None:
            nonlocal told_to_stop
            told_to_stop = True

        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, remember)  # the server replaces it, and puts it back when it has stopped
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        is_front = index == len(self._sockets)

        def ready() -> None:
            self._states[index] = ANSWERING
            with contextlib.suppress(OSError):
                self._waking.send(b"\0")

        def tick() -> None:
            if not is_front:
                self._num_sessions[index] = self._app.num_sessions
            if told_to_stop or os.getppid() != self._parent:  # before the server listened, or without a word
                signal.raise_signal(signal.SIGTERM)

        try:
            if is_front:
                urls = [f"http://127.0.0.1:{each.getsockname()[1]}" for each in self._sockets]
                backends = WorkerBackends(urls, self._num_sessions, self._app.limits.max_sessions)
                proxy = StickyProxy(backends, max_request_bytes=self._app.limits.max_request_bytes)
                self._run(self._entrance(proxy), self._listener, ready, tick)
            else:
                self._listener.close()
                self._run(self._app, self._sockets[index], ready, tick)
        finally:
            self._states[index] = STOPPED

    def _replace_the_dead(self) -> None:
        for index, child in enumerate(self._children):
            if child.exitcode is None:
                continue
            if self._states[index] == STARTING:
                raise RuntimeError(f"the {self._name(index)} ended before it answered, with status {child.exitcode}")
            logger.error("the %s died with status %s and is replaced", self._name(index), child.exitcode)
            _kill_group(child)  # what its environments have started
            self._states[index] = STARTING
            if index < len(self._sockets):
                self._num_sessions[index] = 0
            self._children[index] = self._start(index)

    def _name(self, index: int) -> str:
        return f"worker {index}" if index < len(self._sockets) else "process in front"

    # ---------------------------------------------------------------- stopping

    def _stop(self) -> None:
        """Drain the proxy, then the workers, so that running calls keep their connections."""
        self._listener.close()
        num_workers = len(self._sockets)
        self._end(range(num_workers, len(self._children)), self._drain_seconds)
        teardown_seconds = 3 * self._app.limits.teardown_seconds  # of calls, of what runs on threads, of environments
        self._end(range(min(num_workers, len(self._children))), self._drain_seconds + teardown_seconds)
        for each in self._sockets:
            each.close()

    def _end(self, indices: Sequence[int], seconds: float) -> None:
        """Stop children; kill those that do not stop or exit in time."""
        children = {index: self._children[index] for index in indices}
        for child in children.values():
            child.terminate()
        deadline = time.monotonic() + seconds + EXIT_SECONDS
        stopped: dict[int, float] = {}
        killed: set[int] = set()
        while any(child.exitcode is None for child in children.values()):
            now = time.monotonic()
            for index, child in children.items():
                if self._states[index] == STOPPED:
                    stopped.setdefault(index, now)
                if child.exitcode is None and (now > deadline or now > stopped.get(index, now) + EXIT_SECONDS):
                    if index not in killed:
                        logger.error("the %s did not end in time and is killed", self._name(index))
                        killed.add(index)
                    child.kill()
            if self._wait(LOOK_SECONDS) is not None:  # a second time: at once
                for child in self._children:
                    child.kill()
        for child in children.values():
            _kill_group(child)


def _noted(signum: int, frame: FrameType | None) -> None:
    """The signal is a byte on the socket by now."""


def _kill_group(child: ForkProcess) -> None:
    """Kill what an ended child left in its process group."""
    assert child.pid is not None
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _loopback_socket() -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(4096)
    return listener
