"""The server as several processes on one machine: one that clients reach, and workers behind it that hold sessions.

A session's id says which worker holds it, so nothing need be looked up, and no session is lost when the process in
front is replaced. That one runs no code of an environment: what crashes is a worker, and takes only its own sessions
along. (If clients reached the workers directly, a crash would also cut what came in by that worker for another.)

Each worker has a listening socket of its own on the loopback interface. It belongs to the parent, as the public one
does: when a worker dies, requests for it wait in that socket until the next one has taken its place.

The parent only waits, for signals and for children that end. It runs no event loop and starts no thread, so it can fork
a new child at any time, with the environment classes as they are: nothing has to be picklable.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import signal
import socket
import time
import uuid
import zlib
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkProcess
from multiprocessing.sharedctypes import RawArray
from types import FrameType
from typing import Any, Protocol

from ors_gym.http.answers import RefusedError
from ors_gym.http.proxy import StickyProxy
from ors_gym_server.asgi.app import ORSApp

__all__ = ["Prefork", "Run", "WorkerBackends"]

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1)
"""What the parent waits for. A child sends SIGUSR1 when it answers."""

FRESH_SECONDS = 1.0
"""So long a session that was placed counts beside those its worker has counted itself: it may not have come yet."""


class Run(Protocol):
    """Serves an ASGI application on a socket until SIGTERM."""

    def __call__(self, app: Any, listener: socket.socket, ready: Callable[[], None], tick: Callable[[], None]) -> None:
        """Call ``ready`` when it answers, and ``tick`` several times a second."""
        ...


class WorkerBackends:
    """The workers as their proxy sees them. A session belongs to the worker that the checksum of its id names."""

    def __init__(self, urls: Sequence[str], num_sessions: Sequence[int]) -> None:
        self._urls = urls
        self._num_sessions = num_sessions
        self._fresh: list[list[float]] = [[] for _ in urls]
        self._turns = itertools.cycle(urls)

    async def place(self) -> str:
        """An id of a session on the worker that has the fewest."""
        now = time.monotonic()
        self._fresh = [[when for when in placed if when > now - FRESH_SECONDS] for placed in self._fresh]
        loads = [count + len(placed) for count, placed in zip(self._num_sessions, self._fresh, strict=True)]
        worker = loads.index(min(loads))
        self._fresh[worker].append(now)
        while self._worker(session_id := str(uuid.uuid4())) != worker:
            pass
        return session_id

    async def find(self, session_id: str) -> str:
        """The worker that holds a session, if there is such a session."""
        return self._urls[self._worker(session_id)]

    async def any(self) -> str:
        """The workers in turn."""
        return next(self._turns)

    async def unreachable(self, url: str) -> RefusedError:
        """A worker's socket is always open; there are more requests than it can queue."""
        return RefusedError(503, "the server is busy", 1)

    def _worker(self, session_id: str) -> int:
        return zlib.crc32(session_id.encode()) % len(self._urls)


class Prefork:
    """Runs the processes until SIGTERM or Ctrl-C.

    Args:
        app: what each worker serves; made already, so that what is wrong with it is known, and its memory is shared.
        listener: where clients connect.
        run: serves an application in a child.
        num_workers: how many workers.
    """

    def __init__(self, app: ORSApp, listener: socket.socket, run: Run, num_workers: int) -> None:
        self._app = app
        self._listener = listener
        self._run = run
        self._sockets = [_loopback_socket() for _ in range(num_workers)]
        self._num_sessions: Any = RawArray("i", num_workers)
        self._answering: Any = RawArray("b", num_workers + 1)
        """Which children answer: the workers, then the process in front."""
        self._children: list[ForkProcess] = []
        self._parent = os.getpid()

    def run(self, started: Callable[[], None]) -> None:
        """Start all processes, call ``started`` when they answer, and replace those that die.

        Raises:
            RuntimeError: a process ended before it answered.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        received = None
        try:
            for index in range(len(self._answering)):
                self._children.append(self._start(index))
            announced = False
            while received is None:
                signum = signal.sigwait(SIGNALS)
                if signum == signal.SIGCHLD:
                    self._replace_the_dead()
                elif signum != signal.SIGUSR1:
                    received = signum
                elif all(self._answering) and not announced:
                    announced = True
                    started()
        finally:
            self._stop()
            while late := signal.sigpending() & set(SIGNALS):  # a child's SIGUSR1 would end this process
                signal.sigwait(late)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.raise_signal(received)  # as a server of one process does that was told to stop, once it has drained

    # ---------------------------------------------------------------- children

    def _start(self, index: int) -> ForkProcess:
        child = multiprocessing.get_context("fork").Process(target=self._live, args=(index,), name=self._name(index))
        child.start()
        return child

    def _live(self, index: int) -> None:
        os.setpgid(0, 0)  # Ctrl-C is the parent's to answer
        told_to_stop = False

        def remember(signum: int, frame: FrameType | None) -> None:
            nonlocal told_to_stop
            told_to_stop = True

        signal.signal(signal.SIGTERM, remember)  # the server replaces it, and puts it back when it has stopped
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        is_front = index == len(self._sockets)

        def ready() -> None:
            self._answering[index] = 1
            os.kill(self._parent, signal.SIGUSR1)

        def tick() -> None:
            if not is_front:
                self._num_sessions[index] = self._app.num_sessions
            if told_to_stop or os.getppid() != self._parent:  # before the server listened, or without a word
                signal.raise_signal(signal.SIGTERM)

        if is_front:
            urls = [f"http://127.0.0.1:{each.getsockname()[1]}" for each in self._sockets]
            backends = WorkerBackends(urls, self._num_sessions)
            proxy = StickyProxy(backends, max_request_bytes=self._app.limits.max_request_bytes)
            self._run(proxy, self._listener, ready, tick)
        else:
            self._listener.close()
            self._run(self._app, self._sockets[index], ready, tick)

    def _replace_the_dead(self) -> None:
        for index, child in enumerate(self._children):
            if child.exitcode is None:
                continue
            if not self._answering[index]:
                raise RuntimeError(f"the {self._name(index)} ended before it answered, with status {child.exitcode}")
            logger.error("the %s died with status %s and is replaced", self._name(index), child.exitcode)
            self._answering[index] = 0
            if index < len(self._sockets):
                self._num_sessions[index] = 0
            self._children[index] = self._start(index)

    def _name(self, index: int) -> str:
        return f"worker {index}" if index < len(self._sockets) else "process in front"

    def _stop(self) -> None:
        """Drain the process in front, then the workers: while calls run, the way to their clients is open."""
        self._listener.close()
        workers, front = self._children[: len(self._sockets)], self._children[len(self._sockets) :]
        for group in (front, workers):
            for child in group:
                child.terminate()
            while any(child.exitcode is None for child in group):
                if signal.sigwait(SIGNALS) in (signal.SIGTERM, signal.SIGINT):  # a second time: at once
                    for child in self._children:
                        child.kill()
        for each in self._sockets:
            each.close()


def _loopback_socket() -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(4096)
    return listener
