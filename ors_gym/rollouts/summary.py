"""The summary of groups for the command line, the page, and the trainer's logs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ors_gym.rollouts.returns import trajectory_return
from ors_gym.trajectory import Trajectory, TrajectoryGroup

__all__ = ["Summary"]


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of episodes by outcome, and means over episodes that did not fail; None without any."""

    groups: int
    dropped_groups: int
    refilled_groups: int
    """Groups played instead of a dropped one."""
    equal_groups: int
    """Of ``compared_groups``, those whose returns are all equal, which carry no signal."""
    compared_groups: int
    """Groups in which at least two members have a return."""
    episodes: int
    scored: int
    """Episodes with a return, over which ``mean_return`` is the mean."""
    unrewarded: int
    """Episodes that were given no reward, and did not fail."""
    failed: int
    """Episodes that failed on every attempt."""
    mean_return: float | None
    return_std: float | None
    """Population standard deviation of the returns."""
    mean_turns: float | None
    mean_calls: float | None
    mean_refused_calls: float | None
    mean_seconds: float | None
    mean_tool_seconds: float | None
    """Time in tool calls."""
    tokens: int | None
    """Tokens of the policy in all episodes; None if unknown."""
    stop_reasons: Mapping[str, int]
    tool_calls: Mapping[str, int]
    """Calls by tool, including those of failed episodes."""
    tool_errors: int
    """Calls whose tool raised, in episodes that did not fail."""
    failures: Mapping[str, int]
    """Failed attempts by kind, including those followed by a successful one."""

    @classmethod
    def of(
        cls, groups: Iterable[TrajectoryGroup], score: Callable[[Trajectory], float | None] = trajectory_return
    ) -> Summary:
        """Summarise ``groups``. ``score`` returns a trajectory's return, None without one."""
        groups = tuple(groups)
        returns = [[score(member) for member in group.members] for group in groups]
        episodes = [member for group in groups for member in group.members]
        played = [episode for episode in episodes if not episode.failed]
        given = [value for group in returns for value in group if value is not None]
        compared = [values for group in returns if len(values := [each for each in group if each is not None]) > 1]
        tokens = [episode.num_tokens for episode in episodes if episode.num_tokens is not None]
        return cls(
            groups=len(groups),
            dropped_groups=sum(group.dropped for group in groups),
            refilled_groups=sum(group.refilled_for is not None for group in groups),
            equal_groups=sum(min(values) == max(values) for values in compared),
            compared_groups=len(compared),
            episodes=len(episodes),
            scored=len(given),
            unrewarded=sum(all(reward is None for reward in episode.rewards) for episode in played),
            failed=len(episodes) - len(played),
            mean_return=_mean(given),
            return_std=_standard_deviation(given),
            mean_turns=_mean([episode.num_turns for episode in played]),
            mean_calls=_mean([len(episode.transitions) for episode in played]),
            mean_refused_calls=_mean([sum(not step.output.ok for step in episode.transitions) for episode in played]),
            mean_seconds=_mean([episode.seconds for episode in played]),
            mean_tool_seconds=_mean([math.fsum(step.seconds for step in episode.transitions) for episode in played]),
            tokens=sum(tokens) if tokens else None,
            stop_reasons=Counter(str(episode.stop_reason) for episode in episodes),
            tool_calls=Counter(step.action.name for episode in episodes for step in episode.transitions),
            tool_errors=sum(step.output.tool_raised for episode in played for step in episode.transitions),
            failures=Counter(failure.kind for group in groups for failure in group.failures),
        )

    def outcomes(self) -> str:
        """A description of the episodes in the mean return."""
        text = f"{self.scored:,} of {self.episodes:,} episodes scored"
        if self.unrewarded:
            text += f", {self.unrewarded:,} without a reward"
        return f"{text}, {self.failed:,} failed"


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _standard_deviation(values: Sequence[float]) -> float | None:
    mean = _mean(values)
    return None if mean is None else math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
