"""Scorers for an episode: its return and its success, by the rules of :mod:`ors_gym.evaluation`."""

from __future__ import annotations

from typing import Literal

from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState

from ors_gym.rollouts.returns import reduce_rewards
from ors_gym_inspect.play import REWARDS, STOP_REASON

__all__ = ["Reward", "episode_return", "episode_success", "scores"]

Reward = Literal["sum", "last", "max", "min", "mean"]

ROUNDING = 1e-9
"""A return this little below ``success_at`` counts as success."""


@scorer(metrics=[mean(), stderr()])
def episode_return(reward: Reward = "sum", unrewarded: float = 0.0) -> Scorer:
    """The return of an episode: its rewards reduced to one number; ``unrewarded`` if none was given."""

    async def score(state: TaskState, target: Target) -> Score:
        return _scores_of(state, reward, unrewarded)[0]

    return score


@scorer(metrics=[mean(), stderr()])
def episode_success(success_at: float = 1.0, reward: Reward = "sum", unrewarded: float = 0.0) -> Scorer:
    """1 if the return of an episode reaches ``success_at``, else 0."""

    async def score(state: TaskState, target: Target) -> Score:
        return _scores_of(state, reward, unrewarded, success_at)[1]

    return score


def _scores_of(state: TaskState, reward: Reward, unrewarded: float, success_at: float = 1.0) -> tuple[Score, Score]:
    rewards: list[float | None] = state.store.get(REWARDS, [])
    value = reduce_rewards(rewards, reward)
    stop_reason = state.store.get(STOP_REASON) or "limit of Inspect"
    return scores(value, unrewarded, success_at, {"rewards": rewards, "stop_reason": stop_reason})


def scores(
    value: float | None, unrewarded: float, success_at: float, metadata: dict[str, object]
) -> tuple[Score, Score]:
    """The scores of an episode from its return (None if no reward was given): the return, and whether it is a success.

    Both are always numbers: Inspect omits other values.
    """
    episode_return = unrewarded if value is None else value
    about = {**metadata, "unrewarded": value is None}
    return (
        Score(value=episode_return, metadata=about),
        Score(value=float(episode_return >= success_at - ROUNDING), metadata=about),
    )
