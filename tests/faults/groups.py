"""Groups of episodes under infrastructure failures: the faults, and the count of what was asked for and what came back.

The doors are ``run_groups`` in this process (``rollout_campaign``) and a pool of Ray actors (``ray_campaign``).
"""

from __future__ import annotations

import collections
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from ors_gym.trajectory import TrajectoryGroup
from tests.support.faulty_proxy import Fault, ProxiedRequest, http_answer

__all__ = ["HEAD", "Plan", "Tally", "cut", "full", "hang", "row"]

Plan: TypeAlias = Callable[[ProxiedRequest, random.Random], Fault | None]
FULL = http_answer("429 Full", Retry_After="0")


def cut(request: ProxiedRequest, rng: random.Random) -> Fault | None:
    """Cut one connection in twenty, before or after the server has worked."""
    faults = [Fault(refuse=True), Fault(drop_answer=True, reset=True), Fault(cut_after=b"event: task_id")]
    return rng.choice(faults) if rng.random() < 0.05 else None


def hang(request: ProxiedRequest, rng: random.Random) -> Fault | None:
    """Never answer one call in twenty."""
    return Fault(silent=True) if request.path.endswith("/call") and rng.random() < 0.05 else None


def full(request: ProxiedRequest, rng: random.Random) -> Fault | None:
    """Refuse every second session: the server has no room."""
    return Fault(answer=FULL) if request.path == "/create" and rng.random() < 0.5 else None


@dataclass
class Tally:
    """The groups that came back of those asked for. An episode counts to ``target``, which gives 1.0 at its end."""

    asked: int
    target: int
    groups: list[TrajectoryGroup] = field(default_factory=list)
    sessions_left: int = 0

    @property
    def complete(self) -> int:
        """Groups of which every member is valid."""
        return sum(group.num_valid == len(group.members) for group in self.groups)

    @property
    def dropped(self) -> int:
        """Groups that were dropped."""
        return sum(group.dropped for group in self.groups)

    @property
    def kept(self) -> int:
        """Groups that were kept, incomplete ones included."""
        return len(self.groups) - self.dropped

    @property
    def refills(self) -> int:
        """Groups played instead of a dropped one."""
        return sum(group.refilled_for is not None for group in self.groups)

    @property
    def doubled(self) -> int:
        """Tasks or episodes that came back more than once."""
        tasks = collections.Counter(group.task for group in self.groups)
        episodes = collections.Counter(member.episode_id for group in self.groups for member in group.members)
        return sum(count > 1 for count in (*tasks.values(), *episodes.values()))

    @property
    def failures(self) -> collections.Counter[str]:
        """Attempts that failed, by kind."""
        return collections.Counter(failure.kind for group in self.groups for failure in group.failures)

    @property
    def wrong(self) -> list[str]:
        """Members that are not what such an episode is: whole and right, or failed and without an end."""
        members = [member for group in self.groups for member in group.members]
        whole = [member for member in members if not member.failed]
        right = (None,) * (self.target - 1) + (1.0,)
        wrong = [f"{member.rewards}" for member in whole if member.rewards != right]
        return wrong + [str(member) for member in members if member.failed and member.failure is None]


HEAD = " " * 32 + "  asked complete  kept dropped refills twice  left  failed attempts"


def row(name: str, tally: Tally) -> str:
    """One line of the table."""
    counts = (tally.asked, tally.complete, tally.kept, tally.dropped, tally.refills, tally.doubled, tally.sessions_left)
    cells = "".join(f"{count:>{width}}" for count, width in zip(counts, (7, 9, 6, 8, 8, 6, 6), strict=True))
    return f"{name:<32}{cells}  " + ", ".join(f"{kind} {count}" for kind, count in sorted(tally.failures.items()))
