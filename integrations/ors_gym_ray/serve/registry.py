"""The registry: which replica takes a new session, and the address of each replica.

A session's id names its replica (``"<replica>-<random>"``), so finding a session needs no state, and a restarted
registry is complete again as soon as each replica has reported once.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from ors_gym.http.answers import RefusedError

__all__ = ["Heartbeat", "HeartbeatReply", "Registry", "replica_of"]

REPORT_SECONDS = 0.5
"""Interval of a replica's reports; it also reports at once when its number of sessions has changed."""

SILENT_SECONDS = 3.0
"""A replica without a report for this long gets no new session; if it cannot be reached either, it is dead."""

FIRST_SECONDS = 3.0
"""Seconds that a new registry waits for the first report of an unknown replica."""

PLACING_SECONDS = 10.0
"""Seconds that a new session waits for a place before its client has to retry."""

COMING_SECONDS = 30.0
"""Seconds for which a place is reserved for a session that has an id but is not created yet."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A replica's report."""

    replica: str
    url: str
    num_sessions: int
    created: Sequence[str]
    """Sessions that were created since the last report; they are counted in ``num_sessions`` while they live."""
    draining: bool
    """Whether it takes no new session and stops when it has none."""


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """The registry's answer to a report."""

    num_coming: int
    """Sessions that have a place on it and are not created yet."""
    num_waiting: float
    """Its share of the sessions that wait for a place."""


@dataclass(slots=True)
class _Replica:
    report: Heartbeat
    heard: float
    coming: dict[str, float] = field(default_factory=dict)
    """Ids of sessions that are placed and not created yet, with the time of placement."""

    @property
    def load(self) -> int:
        return self.report.num_sessions + len(self.coming)


class Registry:
    """A Serve deployment of one replica.

    Args:
        max_sessions: Maximum sessions of one replica.
        max_replicas: Maximum number of replicas.
    """

    def __init__(self, max_sessions: int, max_replicas: int) -> None:
        self._max_sessions = max_sessions
        self._max_replicas = max_replicas
        self._replicas: dict[str, _Replica] = {}
        self._num_waiting = 0
        self._changed = asyncio.Event()
        self._began = time.monotonic()

    # ---------------------------------------------------------------- called by replicas

    async def report(self, report: Heartbeat) -> HeartbeatReply:
        """Record a replica's report."""
        now = time.monotonic()
        replica = self._replicas.get(report.replica)
        if replica is None:
            replica = self._replicas[report.replica] = _Replica(report, now)
        replica.report, replica.heard = report, now
        for session_id in report.created:
            replica.coming.pop(session_id, None)
        for session_id, placed in list(replica.coming.items()):
            if placed < now - COMING_SECONDS:
                del replica.coming[session_id]
        self._wake()
        share = 0.0 if report.draining else self._num_waiting / max(1, len(self._taking(now)))
        return HeartbeatReply(len(replica.coming), share)

    async def leave(self, replica: str) -> None:
        """Forget a replica that stops."""
        self._replicas.pop(replica, None)
        self._wake()

    # ---------------------------------------------------------------- called by the ingress

    async def place(self) -> str | RefusedError:
        """Reserve a place on the replica with the fewest sessions, waiting for a free one; returns the session's id."""
        self._num_waiting += 1
        try:
            async with asyncio.timeout(PLACING_SECONDS):
                while True:
                    now = time.monotonic()
                    taking = self._taking(now)
                    free = [each for each in taking if each.load < self._max_sessions]
                    if free:
                        replica = min(free, key=lambda each: each.load)
                        session_id = f"{replica.report.replica}-{uuid.uuid4().hex}"
                        replica.coming[session_id] = now
                        return session_id
                    if len(taking) >= self._max_replicas:
                        text = f"all {len(taking)} replicas are at their limit of {self._max_sessions} sessions"
                        return RefusedError(429, text, 1)
                    await self._changed.wait()
        except TimeoutError:
            return RefusedError(503, "a replica is starting", 1)
        finally:
            self._num_waiting -= 1

    async def find(self, replica: str) -> str | None:
        """A replica's URL; None if it no longer exists."""
        while replica not in self._replicas and (left := self._began + FIRST_SECONDS - time.monotonic()) > 0:
            await self._wait(left)
        found = self._replicas.get(replica)
        return None if found is None else found.report.url

    async def replicas(self) -> list[str]:
        """URLs of replicas for requests without a session; waits until there is one."""
        for _ in range(2):
            if urls := [each.report.url for each in self._taking(time.monotonic())]:
                return urls
            await self._wait(PLACING_SECONDS)
        return []

    async def suspect(self, replica: str) -> bool:
        """Whether a replica that could not be reached is dead, which its missing reports confirm."""
        found = self._replicas.get(replica)
        if found is not None and time.monotonic() - found.heard > SILENT_SECONDS:
            await self.leave(replica)
        return replica not in self._replicas

    async def overview(self) -> list[tuple[str, int, bool]]:
        """Each replica's name, number of sessions, and whether it is draining."""
        return [(name, each.load, each.report.draining) for name, each in self._replicas.items()]

    # ---------------------------------------------------------------- internal

    def _taking(self, now: float) -> list[_Replica]:
        return [
            each for each in self._replicas.values() if not each.report.draining and now - each.heard < SILENT_SECONDS
        ]

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass


def replica_of(session_id: str) -> str:
    """The replica that a session's id names; empty if the id has another form."""
    replica, dash, rest = session_id.partition("-")
    return replica if dash and rest else ""
