"""Threads for synchronous environments, so that they never run on the event loop.

A session keeps one :class:`SessionThread` for its whole life: its synchronous methods run in order on the same
thread, as what belongs to a thread (SQLite connections, OpenGL contexts) needs. There is no fixed number of threads:
with a bounded pool, as many slow sessions as it has threads would hold up all others.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias

__all__ = ["SessionThread", "SessionThreads", "current_thread", "on_session_thread", "run_user"]

_Job: TypeAlias = tuple[
    asyncio.AbstractEventLoop, "asyncio.Future[Any]", contextvars.Context, Callable[..., Any], tuple[Any, ...]
]

MAX_IDLE = 64
"""Number of idle threads that are kept."""

current_thread: contextvars.ContextVar[SessionThread | None] = contextvars.ContextVar("current_thread", default=None)
"""The thread of the session whose method runs in this context."""


class SessionThread:
    """One thread that runs functions in order. Used from one event loop only."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self.pending = 0
        """Number of waiting and running functions."""
        self._thread = threading.Thread(target=self._work, name="ors-session", daemon=True)
        self._thread.start()

    async def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Run ``fn`` and return its result. It continues when the caller is cancelled: threads cannot be stopped."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self.pending += 1
        self._jobs.put((loop, future, contextvars.copy_context(), fn, args))
        return await future

    def stop(self) -> None:
        """End the thread after the functions that wait."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            loop, future, context, fn, args = job
            result: Any = None
            error: BaseException | None = None
            try:
                result = context.run(fn, *args)
            except BaseException as raised:  # the caller gets every exception of a tool
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: no caller waits
                loop.call_soon_threadsafe(self._deliver, future, result, error)
            del job, loop, future, context, fn, args, result, error

    def _deliver(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self.pending -= 1
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        elif isinstance(error, StopIteration):
            future.set_exception(RuntimeError(f"StopIteration: {error}"))  # futures do not carry it
        else:
            future.set_exception(error)


class SessionThreads:
    """A pool of threads without an upper limit."""

    def __init__(self) -> None:
        self._idle: list[SessionThread] = []

    def borrow(self) -> SessionThread:
        """An idle worker, or a new one."""
        return self._idle.pop() if self._idle else SessionThread()

    def give_back(self, worker: SessionThread) -> None:
        """Return a worker; a busy one ends after its function."""
        if worker.pending or len(self._idle) >= MAX_IDLE:
            worker.stop()
        else:
            self._idle.append(worker)

    async def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Run one function on a borrowed worker."""
        worker = self.borrow()
        try:
            return await worker.run(fn, *args)
        finally:
            self.give_back(worker)

    def close(self) -> None:
        """End the idle threads."""
        while self._idle:
            self._idle.pop().stop()


async def on_session_thread(fn: Callable[..., Any], *args: Any) -> Any:
    """Run synchronous code of the environment on the thread of its session, outside a server on any."""
    thread = current_thread.get()
    return await (asyncio.to_thread(fn, *args) if thread is None else thread.run(fn, *args))


async def run_user(run: Callable[..., Any], fn: Callable[..., Any], *args: Any) -> Any:
    """Call code of the environment: a coroutine function here, anything else by ``run``, off the event loop."""
    if inspect.iscoroutinefunction(fn):
        return await fn(*args)
    result = await run(fn, *args)
    return await result if inspect.isawaitable(result) else result
