"""The data behind a run's page, which a producer such as a trainer fills during the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ors_gym.reporting.provenance import provenance
from ors_gym.rollouts.returns import trajectory_return
from ors_gym.rollouts.summary import Summary
from ors_gym.trajectory import Trajectory, TrajectoryGroup

__all__ = ["Measurement", "Point", "RunRecord", "Sample", "StepRecord"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """The mean return of a fixed policy, and the number of episodes."""

    reward: float
    episodes: int


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One training step. None means not measured. Means are over episodes; seconds are wall-clock.

    ``seconds`` counts from the start of the run to the end of the step. The step spent ``rollout_seconds`` on rollouts
    and ``training_seconds`` on learning; of the rollout, ``generation_seconds`` went into the model and
    ``environment_seconds`` into waiting for environments.
    """

    step: int
    seconds: float
    episodes: int = 0
    reward: float | None = None
    reward_std: float | None = None
    turns: float | None = None
    tokens: float | None = None
    stop_reasons: Mapping[str, int] = field(default_factory=dict[str, int])
    tool_calls: Mapping[str, int] = field(default_factory=dict[str, int])
    failures: Mapping[str, int] = field(default_factory=dict[str, int])
    dropped_groups: int = 0
    scored: int | None = None
    """Episodes with a return; ``reward`` is their mean."""
    unrewarded: int | None = None
    """Scored episodes that were given no reward."""
    failed: int | None = None
    rollout_seconds: float | None = None
    generation_seconds: float | None = None
    environment_seconds: float | None = None
    training_seconds: float | None = None

    @classmethod
    def from_groups(
        cls,
        step: int,
        groups: Iterable[TrajectoryGroup],
        *,
        seconds: float,
        score: Callable[[Trajectory], float | None] = trajectory_return,
        tokens: float | None = None,
        rollout_seconds: float | None = None,
        generation_seconds: float | None = None,
        environment_seconds: float | None = None,
        training_seconds: float | None = None,
    ) -> StepRecord:
        """Summarize ``groups``; values that trajectories do not hold (tokens, seconds) are passed by the caller.

        ``score`` computes the return of a trajectory. Failed episodes have none and are only counted in ``failures``,
        once per failed attempt.
        """
        summary = Summary.of(groups, score)
        return cls(
            step,
            seconds,
            summary.episodes,
            summary.mean_return,
            summary.return_std,
            summary.mean_turns,
            tokens,
            stop_reasons=summary.stop_reasons,
            tool_calls=summary.tool_calls,
            failures=summary.failures,
            dropped_groups=summary.dropped_groups,
            scored=summary.scored,
            unrewarded=summary.unrewarded,
            failed=summary.failed,
            rollout_seconds=rollout_seconds,
            generation_seconds=generation_seconds,
            environment_seconds=environment_seconds,
            training_seconds=training_seconds,
        )


@dataclass(frozen=True, slots=True)
class Point:
    """A value at a step; ``low`` and ``high`` are the ends of its interval, if it has one."""

    step: int
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A trajectory to show. ``step`` is its training step; ``label`` identifies it if there is none."""

    trajectory: Trajectory
    step: int | None = None
    label: str = ""
    episode_return: float | None = None
    """The return as the run counted it; None if there is none."""
    advantage: float | None = None
    group: str = ""
    """Samples with the same ``group`` are attempts at the same task."""


@dataclass(slots=True)
class RunRecord:
    """The contents of the page. It grows with the run: append to ``steps`` and ``samples``."""

    title: str
    description: str = ""
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    baseline_reward: Measurement | None = None
    """The return of a policy that chooses tools and inputs at random."""
    warmup: str = ""
    """What the model learned before the first step, in a sentence."""
    reward_after_warmup: Measurement | None = None
    steps: list[StepRecord] = field(default_factory=list[StepRecord])
    samples: list[Sample] = field(default_factory=list[Sample])
    total_steps: int | None = None
    """Number of planned steps."""
    curves: dict[str, list[Point]] = field(default_factory=dict[str, list[Point]])
    """More values over the steps, by name: loss, learning rate, results of evaluations."""
    provenance: Mapping[str, str] = field(default_factory=provenance)
    """When, where and with what the run was made."""
    records: str = ""
    """The path of the record file relative to the page, which links to it."""
    beside: Mapping[str, str | os.PathLike[str]] = field(default_factory=dict[str, str | os.PathLike[str]])
    """Pages of other runs whose rewards are drawn for comparison, by display name."""
    ended: str = ""
    """How the run ended: ``finished``, ``interrupted``, …; empty while it is running."""
