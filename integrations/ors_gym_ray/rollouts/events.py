"""Messages between a pool and its actors: jobs in one direction, numbered events in the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ors_gym.policies.policy import Turn
from ors_gym.trajectory import TaskRef, Trajectory

__all__ = ["Broken", "Deleted", "Ended", "Event", "Home", "Job", "Opening", "TurnRequested"]


@dataclass(frozen=True, slots=True)
class Home:
    """Where an actor lives."""

    node_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class Job:
    """One episode to play; ``ask_driver`` when its policy lives with the pool."""

    episode_id: str
    task: TaskRef
    attempt: int
    seed: int | None
    ask_driver: bool


@dataclass(frozen=True, slots=True)
class Opening:
    """A session is about to be created; it is when the pool has noted it."""

    session_id: str
    headers: Mapping[str, str]
    """Those that only the session's own requests carry."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """The server no longer has a session."""

    session_id: str


@dataclass(frozen=True, slots=True)
class TurnRequested:
    """An episode waits for the policy's answer to this turn.

    The first ``known`` messages of the conversation went before and are left out, and then the tools are too.
    """

    turn: Turn
    known: int


@dataclass(frozen=True, slots=True)
class Ended:
    """An episode is over."""

    trajectory: Trajectory


@dataclass(frozen=True, slots=True)
class Broken:
    """The actor's own policy, or a bug, raised while an episode was played."""

    episode_id: str
    error: Exception


Event = Opening | Deleted | TurnRequested | Ended | Broken
