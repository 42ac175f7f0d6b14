"""What happened in an episode: data only, picklable, without a producer's packages.

An episode has exactly one end, of one of three kinds that are never mixed: *terminated* (the environment said
``finished``, or the policy chose to stop), *truncated* (one of our limits), *failed* (the world broke it). A failed
episode has no return. Member i of a group stays at index i.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ors_gym.types import Message, ToolCall, ToolOutput

__all__ = ["Failure", "StopReason", "TaskRef", "Trajectory", "TrajectoryGroup", "Transition"]


class StopReason(StrEnum):
    """Why an episode ended."""

    FINISHED = "finished"
    """The environment answered ``finished``. Terminated."""
    POLICY_STOPPED = "policy_stopped"
    """The policy sent a plain message where the environment has no terminal tool. Terminated."""
    MAX_TURNS = "max_turns"
    """The policy had its last turn. Truncated."""
    MAX_SECONDS = "max_episode_seconds"
    """The episode's time was over. Truncated."""
    MAX_TOKENS = "max_tokens"
    """The policy's token budget was spent, or its message was cut off. Truncated."""
    FAILED = "failed"
    """The world broke it: see :attr:`Trajectory.failure`."""

    @property
    def terminated(self) -> bool:
        """The episode reached an end of its own."""
        return self in (StopReason.FINISHED, StopReason.POLICY_STOPPED)

    @property
    def truncated(self) -> bool:
        """A limit of ours cut the episode short."""
        return self in (StopReason.MAX_TURNS, StopReason.MAX_SECONDS, StopReason.MAX_TOKENS)

    @property
    def failed(self) -> bool:
        """The episode was broken and must not be scored."""
        return self is StopReason.FAILED


@dataclass(frozen=True, slots=True)
class TaskRef:
    """Which task an episode plays: ``index`` of ``split``, or a ``task`` object of its own."""

    env_name: str
    split: str | None = None
    index: int | None = None
    task: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        by_index = self.split is not None and self.index is not None
        if by_index == (self.task is not None):
            raise ValueError("a TaskRef needs either split and index, or a task object")

    def __hash__(self) -> int:
        task = None if self.task is None else json.dumps(dict(self.task), sort_keys=True, default=str)
        return hash((self.env_name, self.split, self.index, task))

    def __str__(self) -> str:
        return (
            f"{self.env_name}:{self.split}[{self.index}]" if self.task is None else f"{self.env_name}:{dict(self.task)}"
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """What broke an episode: ``kind`` to count by (an error's ``kind``), ``message`` to read."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Transition:
    """One action and what came of it; ``turn`` counts the policy's messages from 0, several calls may share one."""

    action: ToolCall
    output: ToolOutput
    turn: int
    seconds: float

    @property
    def reward(self) -> float | None:
        """The environment's reward, None when it gave none."""
        return self.output.reward


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One episode's record. ``messages`` is the whole conversation, prompt first; ``seconds`` from opening to end."""

    episode_id: str
    task: TaskRef
    stop_reason: StopReason
    transitions: tuple[Transition, ...] = ()
    messages: tuple[Message, ...] = ()
    failure: Failure | None = None
    seconds: float = 0.0
    num_turns: int = 0
    num_tokens: int | None = None
    """Tokens that the policy wrote, None where it did not say."""
    attempt: int = 0
    """How many episodes of this group member failed before this one."""

    def __post_init__(self) -> None:
        if self.stop_reason.failed != (self.failure is not None):
            raise ValueError("a trajectory has a failure exactly when its stop_reason is FAILED")

    @property
    def rewards(self) -> tuple[float | None, ...]:
        """The reward of each transition, as given."""
        return tuple(transition.reward for transition in self.transitions)

    @property
    def completion(self) -> tuple[Message, ...]:
        """The conversation without its prompt: from the policy's first message on.

        The policy's are the last ``num_turns`` messages of the assistant's; any before belong to the prompt.
        """
        turns = [place for place, message in enumerate(self.messages) if message.role == "assistant"]
        return self.messages[turns[-self.num_turns] :] if 0 < self.num_turns <= len(turns) else ()

    @property
    def terminated(self) -> bool:
        """The episode reached an end of its own."""
        return self.stop_reason.terminated

    @property
    def truncated(self) -> bool:
        """A limit of ours cut the episode short."""
        return self.stop_reason.truncated

    @property
    def failed(self) -> bool:
        """The world broke the episode: it has no return."""
        return self.stop_reason.failed


@dataclass(frozen=True, slots=True)
class TrajectoryGroup:
    """The trajectories of one task. A member whose every attempt failed stays at its index as its last failure."""

    task: TaskRef
    members: tuple[Trajectory, ...]
    failures: tuple[Failure, ...] = field(default=())
    """Every failed attempt, also those that a later attempt made good."""
    dropped: bool = False
    """Too few members are valid under the run's failure policy: nothing of the group may be trained on."""
    scores: tuple[float | None, ...] | None = None
    """What the environment's ``score_group`` gave each member, beside the rewards of its episode; None for a member
    that was not scored. None for the whole where scores were not asked for, or the environment gives none."""
    attempts: int = 0
    """Episodes begun, those that failed and those that redundancy made superfluous included."""
    cancelled: int = 0
    """Episodes ended early because enough others were valid before them."""
    refilled_for: TaskRef | None = None
    """The task whose dropped group this one takes the place of."""

    @property
    def num_valid(self) -> int:
        """Members that did not fail."""
        return sum(not member.failed for member in self.members)
