"""One pinger for all sessions of a client.

Servers drop idle sessions: after 900 s on the reference server, 120 s on the hosted platform. Sessions are kept in the
order of their last request: a request moves a session to the end, so only the first one needs to be checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from typing import Protocol

from ors_gym.errors import ORSError

__all__ = ["PING_SECONDS", "Pingable", "Pinger"]

PING_SECONDS = 30.0
"""Idle time after which a session is pinged: a quarter of the shortest known expiry."""

MAX_PINGS_AT_ONCE = 64


class Pingable(Protocol):
    """A session, as the pinger needs it."""

    async def close(self) -> None:
        """End it."""
        ...

    async def ping(self) -> None:
        """Tell the server that the session is still wanted; the session itself notes when it is lost."""
        ...


class Pinger:
    """Pings each added session that has been idle for ``interval_seconds``, until it is removed."""

    def __init__(self, interval_seconds: float = PING_SECONDS) -> None:
        if not interval_seconds > 0:
            raise ValueError(f"ping_seconds must be a positive number of seconds, got {interval_seconds!r}")
        self._interval = interval_seconds
        self._last_request: OrderedDict[Pingable, float] = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        self._pings: set[asyncio.Task[None]] = set()

    @property
    def sessions(self) -> tuple[Pingable, ...]:
        """The sessions, the one with the oldest request first."""
        return tuple(self._last_request)

    def touch(self, session: Pingable) -> None:
        """Note that ``session`` sends a request now, adding it the first time."""
        self._last_request[session] = time.monotonic()
        self._last_request.move_to_end(session)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="ors-gym keepalive")

    def remove(self, session: Pingable) -> None:
        """Remove ``session``."""
        self._last_request.pop(session, None)

    async def _run(self) -> None:
        slots = asyncio.Semaphore(MAX_PINGS_AT_ONCE)
        while self._last_request:
            session, last_request = next(iter(self._last_request.items()))
            wait = last_request + self._interval - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            await slots.acquire()
            self.touch(session)
            task = asyncio.create_task(self._ping(session, slots))
            self._pings.add(task)
            task.add_done_callback(self._pings.discard)
        self._task = None

    @staticmethod
    async def _ping(session: Pingable, slots: asyncio.Semaphore) -> None:
        try:
            with contextlib.suppress(ORSError):  # a lost session says so when used; other faults meet the next ping
                await session.ping()
        finally:
            slots.release()

    async def aclose(self) -> None:
        """Stop."""
        self._last_request.clear()
        tasks = [task for task in (self._task, *self._pings) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = None
