"""Returns of trajectories, and advantages within a group.

A failed episode has no return: None here and NaN in arrays, never 0. A failed member gets no gradient (advantage 0) and
does not count in the baseline. An episode that ended without any reward, by itself or by a limit, has the return 0.0,
because environments that reward only success give no reward otherwise.

Advantages are GRPO's: Shao et al. 2024, DeepSeekMath, https://arxiv.org/abs/2402.03300
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ors_gym.trajectory import StopReason, Trajectory

__all__ = [
    "Reduction",
    "combine_scores",
    "group_advantages",
    "reduce_rewards",
    "trajectory_return",
]

Reduction: TypeAlias = Literal["sum", "last", "max", "min", "mean"] | Callable[[Sequence[float]], float]
"""How the rewards of an episode become its return: a name, or a function of the given rewards."""

STANDARD_DEVIATION_FLOOR = 1e-4
"""Added to a group's standard deviation before dividing, as TRL's ``GRPOTrainer`` does."""


def _mean(rewards: Sequence[float]) -> float:
    return math.fsum(rewards) / len(rewards)


def _last(rewards: Sequence[float]) -> float:
    return rewards[-1]


REDUCTIONS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "sum": math.fsum,
    "last": _last,
    "max": max,
    "min": min,
    "mean": _mean,
}


def reduce_rewards(rewards: Sequence[float | None], how: Reduction = "sum") -> float | None:
    """Reduce the rewards of an episode's steps to its return; None when no step was given a reward.

    Steps without a reward (None) are skipped, so ``"mean"`` divides by the number of rewards given and ``"last"`` is
    the last one given. Raises ValueError for an unknown ``how`` and for rewards that are not finite.
    """
    given = [reward for reward in rewards if reward is not None]
    if not all(map(math.isfinite, given)):
        raise ValueError(f"rewards must be finite numbers or None, got {given}")
    if callable(how):
        reduction = how
    elif how in REDUCTIONS:
        reduction = REDUCTIONS[how]
    else:
        raise ValueError(f"unknown reduction {how!r}: give one of {', '.join(REDUCTIONS)}, or a function")
    return float(reduction(given)) if given else None


def trajectory_return(
    trajectory: Trajectory,
    how: Reduction = "sum",
    truncated_reward: float | None = None,
    stopped_reward: float | None = None,
    unrewarded_return: float | None = 0.0,
) -> float | None:
    """A trajectory's return; always None for a failed one.

    ``truncated_reward`` counts as one more reward after the last step of a truncated episode, ``stopped_reward`` of an
    episode that the policy ended by a plain message. Without them such episodes keep the rewards of their steps.
    ``unrewarded_return`` is the return of an episode that ended without any reward; None leaves it out, like a failed
    one.
    """
    if trajectory.failed:
        return None
    rewards = (*trajectory.rewards, _reward_of_end(trajectory, truncated_reward, stopped_reward))
    reduced = reduce_rewards(rewards, how)
    return unrewarded_return if reduced is None else reduced


def _reward_of_end(
    trajectory: Trajectory, truncated_reward: float | None, stopped_reward: float | None
) -> float | None:
    if trajectory.truncated:
        return truncated_reward
    return stopped_reward if trajectory.stop_reason is StopReason.POLICY_STOPPED else None


def combine_scores(
    returns: Sequence[float | None], scores: Sequence[float | None] | None, how: Reduction = "sum"
) -> tuple[float | None, ...]:
    """The returns of a group with what the environment's ``score_group`` gave its members (``TrajectoryGroup.scores``).

    A member's score counts as one more reward after its return, and ``how`` reduces the two as it reduces rewards:
    ``"sum"`` adds them, ``"last"`` takes the score where there is one, ``"mean"`` weighs them equally, a function
    weighs them as it likes. A group without scores keeps its returns, and so does one whose scoring failed. In a group
    where some were scored, a member that was not has None: it cannot be compared with them.
    """
    if scores is None or all(score is None for score in scores):
        return tuple(returns)
    return tuple(
        None if score is None else reduce_rewards((own, score), how) for own, score in zip(returns, scores, strict=True)
    )


def group_advantages(returns: ArrayLike) -> NDArray[np.float64]:
    """The return of each member minus its group's mean, over the group's standard deviation (ddof 1) + 1e-4.

    ``returns`` has shape ``(..., group_size)``, NaN (or None) for members without a return; the result has the same
    shape and no NaN. A member without a return gets 0, and so does every member of a group whose returns are all equal
    or that has fewer than two of them. Raises ValueError for infinite returns.
    """
    values = np.asarray(returns, dtype=np.float64)
    if values.ndim == 0:
        raise ValueError("returns must have a last axis over the members of a group")
    if np.isinf(values).any():
        raise ValueError("returns must be finite, or NaN where a member has none")
    valid = ~np.isnan(values)
    count = valid.sum(axis=-1, keepdims=True)
    mean = np.where(valid, values, 0.0).sum(axis=-1, keepdims=True) / np.maximum(count, 1)
    centred = np.where(valid, values - mean, 0.0)
    variance = (centred**2).sum(axis=-1, keepdims=True) / np.maximum(count - 1, 1)
    advantages = centred / (np.sqrt(variance) + STANDARD_DEVIATION_FLOOR)
    return np.where(_differ(values, valid), advantages, 0.0)


def _differ(values: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether a group has returns that differ; decided on the returns, as rounding leaves a trace in their mean."""
    low = np.where(valid, values, np.inf).min(axis=-1, keepdims=True, initial=np.inf)
    high = np.where(valid, values, -np.inf).max(axis=-1, keepdims=True, initial=-np.inf)
    return np.asarray(low < high)
