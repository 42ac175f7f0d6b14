"""One call of ``rollout_func``, as listeners and logs see it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ors_gym.trajectory import Trajectory, TrajectoryGroup

__all__ = ["RolloutBatch"]


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """The groups that this process played for one rollout, what they cost, and at which step."""

    step: int
    training: bool
    groups: tuple[TrajectoryGroup, ...]
    sources: tuple[str, ...]
    """The name of each group's source."""
    returns: tuple[float | None, ...]
    """One per episode, in the trainer's order; None where it must not be scored."""
    seconds: float
    sampling_seconds: float
    """The part of ``seconds`` in which the model sampled."""
    sampled_tokens: int
    """Tokens the model wrote in all episodes."""
    replaced_groups: tuple[TrajectoryGroup, ...] = ()
    """Groups whose place another task's group took, dropped or with equal returns; none of their episodes is among the
    trained ones."""
    staleness: tuple[int, ...] = ()
    """One per group, with ``carried_groups``: the number of batches ago that it began."""
    run: object = field(default=None, compare=False, repr=False)
    """Tells trainings apart: the trainer's ``state``, which its callbacks are given too."""

    @property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """All members of all groups."""
        return tuple(member for group in self.groups for member in group.members)
