"""Which replica takes a new session, and where a replica is found: what the doors ask and the replicas tell.

A session's id names its replica (``"<replica>-<random>"``), so nothing here has to be remembered for a session to be
found, and a directory that was restarted knows everything again as soon as each replica has reported once.
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
"""A replica reports so often, and at once when its number of sessions has changed."""

SILENT_SECONDS = 3.0
"""A replica that has been silent for longer takes no new session; if it cannot be reached either, it is dead."""

FIRST_SECONDS = 3.0
"""A directory that is new waits so long for the reports of replicas that it does not know."""

PLACING_SECONDS = 10.0
"""So long a new session waits for a place before its client is told to come again."""

COMING_SECONDS = 30.0
"""A place is kept so long for a session that was given an id and has not been created yet."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a replica says about itself."""

    replica: str
    url: str
    num_sessions: int
    created: Sequence[str]
    """Sessions that were created since the last report; they are counted in ``num_sessions`` while they live."""
    draining: bool
    """It takes no new session, and stops when it has none."""


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """What a replica is told in return."""

    num_coming: int
    """Sessions that were given a place on it and have not been created yet."""
    num_waiting: float
    """Its share of the sessions that wait for a place."""


@dataclass(slots=True)
class _Replica:
    report: Heartbeat
    heard: float
    coming: dict[str, float] = field(default_factory=dict)
    """The ids of sessions that were placed and not created yet, and when each was placed."""

    @property
    def load(self) -> int:
        return self.report.num_sessions + len(self.coming)


class Registry:
    """A Serve deployment of one replica.

    Args:
        max_sessions: Sessions that one replica takes.
        max_replicas: How many replicas there may be.
    """

    def __init__(self, max_sessions: int, max_replicas: int) -> None:
        self._max_sessions = max_sessions
        self._max_replicas = max_replicas
        self._replicas: dict[str, _Replica] = {}
        self._num_waiting = 0
        self._changed = asyncio.Event()
        self._began = time.monotonic()

    # ---------------------------------------------------------------- for replicas

    async def report(self, report: Heartbeat) -> HeartbeatReply:
        """Take in what a replica says."""
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

    # ---------------------------------------------------------------- for doors

    async def place(self) -> str | RefusedError:
        """A place on the replica that has the fewest sessions: the id of a session on it. Waits for one to be free."""
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
        """Where a replica is; None if there is no such replica any more."""
        while replica not in self._replicas and (left := self._began + FIRST_SECONDS - time.monotonic()) > 0:
            await self._wait(left)
        found = self._replicas.get(replica)
        return None if found is None else found.report.url

    async def replicas(self) -> list[str]:
        """Where replicas are that can be asked what is no session's; waits until there is one."""
        for _ in range(2):
            if urls := [each.report.url for each in self._taking(time.monotonic())]:
                return urls
            await self._wait(PLACING_SECONDS)
        return []

    async def suspect(self, replica: str) -> bool:
        """Whether a replica that could not be reached is dead: it has been silent, too."""
        found = self._replicas.get(replica)
        if found is not None and time.monotonic() - found.heard > SILENT_SECONDS:
            await self.leave(replica)
        return replica not in self._replicas

    async def overview(self) -> list[tuple[str, int, bool]]:
        """Each replica's name, its number of sessions, and whether it is being drained."""
        return [(name, each.load, each.report.draining) for name, each in self._replicas.items()]

    # ---------------------------------------------------------------- inside

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
    """The replica that a session's id names; empty if it is an id of somebody else's making."""
    replica, dash, rest = session_id.partition("-")
    return replica if dash and rest else ""
