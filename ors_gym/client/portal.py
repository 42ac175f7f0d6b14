"""The event-loop thread that lets synchronous code use the async client.

::

    with Portal() as portal:
        client = portal.client("http://localhost:8080")
        print(portal.run(client.list_environments()))

Works from any thread, also from one that runs an event loop of its own (notebooks). Environments share one thread and
one client for each server through :func:`shared_portal`.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import sys
import threading
from collections.abc import Coroutine, Hashable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from ors_gym.client.client import ORSClient
from ors_gym.client.janitor import Janitor
from ors_gym.errors import PortalError

__all__ = ["Portal", "shared_portal"]

T = TypeVar("T")

WAIT_SECONDS = 0.2 if sys.platform == "win32" else None
"""Seconds of one wait of a thread: on Windows an unlimited wait blocks Ctrl-C."""


class Portal:
    """An event loop on its own thread. Close it, or use it as a context manager."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._closed = False
        self._lock = threading.Lock()
        self._clients: dict[Hashable, ORSClient] = {}
        self._janitors: list[Janitor] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="ors-gym portal", daemon=True)
        self._thread.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def usable(self) -> bool:
        """Whether it is open, and belongs to this process."""
        return not self._closed and self._pid == os.getpid()

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start a coroutine on the portal's loop.

        Raises:
            PortalError: the portal is closed, or was made before this process forked.
        """
        if not self.usable:
            work.close()
            if self._closed:
                raise PortalError("the portal is closed; make a new one")
            raise PortalError(
                "the portal was made before this process forked, and threads do not survive a fork; "
                "make environments and clients in the process that uses them, or start processes with 'spawn'"
            )
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the portal's loop and return its result, or raise what it raises.

        An interrupt (Ctrl-C) of the waiting thread cancels the coroutine, waits for its clean-up, and is raised again.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise PortalError("Portal.run() was called on the portal's own thread and would wait for itself; await it")
        started: list[asyncio.Task[Any]] = []
        tracked = self._track(work, started)
        future: concurrent.futures.Future[T] | None = None
        try:
            future = self.submit(tracked)
            while WAIT_SECONDS and not concurrent.futures.wait([future], WAIT_SECONDS).done:
                pass
            return future.result()
        except BaseException:
            if (future is None or not future.done()) and self.usable:
                # The interrupt may come before submit() returns, when the work runs already.
                asyncio.run_coroutine_threadsafe(self._cancel(started), self._loop).result()
            if not started:
                tracked.close()
                work.close()
            raise

    @staticmethod
    async def _track(work: Coroutine[Any, Any, T], started: list[asyncio.Task[Any]]) -> T:
        """Run ``work`` after adding its task to ``started``."""
        task = asyncio.current_task()
        assert task is not None
        started.append(task)
        return await work

    @staticmethod
    async def _cancel(started: list[asyncio.Task[Any]]) -> None:
        """Cancel the task that was submitted before this one, and wait for its clean-up."""
        for task in started:
            task.cancel()
            await asyncio.wait([task])

    def client(self, url: str, **options: Any) -> ORSClient:
        """The portal's client of a server: the same one for the same ``url`` and ``options`` of :class:`ORSClient`.

        It is closed with the portal. Its sessions are deleted however this process ends (:class:`~ors_gym.Janitor`).
        """
        key = (url, tuple(sorted((name, _key(value)) for name, value in options.items())))
        with self._lock:
            if not self.usable:
                raise PortalError("the portal is closed or belongs to another process; make a new one")
            client = self._clients.get(key)
            if client is None:
                janitor = Janitor(url, options)
                client = self._clients[key] = ORSClient(url, journal=janitor, **options)
                self._janitors.append(janitor)
            return client

    def close(self) -> None:
        """Close the clients, cancel what still runs and end the thread. Does nothing the second time."""
        if threading.current_thread() is self._thread:
            raise PortalError("Portal.close() was called on the portal's own thread and would wait for itself")
        with self._lock:
            if not self.usable:
                return
            work = asyncio.run_coroutine_threadsafe(self._finish(), self._loop)
            self._closed = True
        work.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for janitor in self._janitors:
            janitor.close()

    async def _finish(self) -> None:
        own = asyncio.current_task()
        clients = tuple(self._clients.values())
        await asyncio.gather(*(client.aclose() for client in clients), return_exceptions=True)
        rest = [task for task in asyncio.all_tasks() if task is not own]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await self._loop.shutdown_asyncgens()


def _key(value: Any) -> Hashable:
    """A key by which options are compared."""
    return tuple(sorted(cast("Mapping[str, str]", value).items())) if isinstance(value, Mapping) else value


_shared: Portal | None = None
_shared_lock = threading.Lock()


def shared_portal() -> Portal:
    """The portal of this process, created on first use and closed at exit; a forked child gets its own."""
    global _shared
    with _shared_lock:
        if _shared is None or not _shared.usable:
            _shared = Portal()
            atexit.register(_shared.close)
        return _shared
