"""A rollout in numbers and words, under the names they have in the trainer's logs and in its table of completions."""

from __future__ import annotations

import json
from collections import Counter

from ors_gym.trajectory import StopReason, Trajectory
from ors_gym_trl.batch import RolloutBatch

__all__ = ["episode_table", "rollout_metrics"]


def rollout_metrics(batch: RolloutBatch) -> dict[str, float]:
    """Means over the batch's episodes; counts per batch; seconds of wall time.

    ``rollout/failed/<kind>`` counts every failed attempt, also those that a later attempt made good. The trainer logs
    its mean over the batches and processes that had one of that kind; of everything else, the mean over all.
    ``rollout/zero_variance_groups`` is the share of groups whose returns are all equal: they teach nothing.
    ``rollout/environment_seconds`` is the mean time an episode spent in tool calls.
    """
    played = [trajectory for trajectory in batch.trajectories if not trajectory.failed]
    count = max(len(played), 1)
    groups = (*batch.groups, *batch.replaced_groups)
    metrics = {
        "rollout/turns": sum(t.num_turns for t in played) / count,
        "rollout/tool_calls": sum(len(t.transitions) for t in played) / count,
        "rollout/refused_calls": sum(not step.output.ok for t in played for step in t.transitions) / count,
        "rollout/episode_seconds": sum(t.seconds for t in played) / count,
        "rollout/environment_seconds": sum(step.seconds for t in played for step in t.transitions) / count,
        "rollout/episode_tokens": batch.sampled_tokens / count,
        "rollout/unscored": float(sum(value is None for value in batch.returns)),
        "rollout/dropped_groups": float(sum(group.dropped for group in groups)),
        "rollout/refilled_groups": float(sum(group.refilled_for is not None for group in batch.groups)),
        "rollout/zero_variance_groups": _zero_variance(batch),
        "rollout/seconds": batch.seconds,
        "rollout/sampling_seconds": batch.sampling_seconds,
    }
    stops = Counter(trajectory.stop_reason for trajectory in batch.trajectories)
    failures = Counter(failure.kind for group in groups for failure in group.failures)
    return (
        metrics
        | {f"rollout/stopped/{reason}": float(stops[reason]) for reason in StopReason}
        | {f"rollout/failed/{kind}": float(n) for kind, n in failures.items()}
    )


def episode_table(batch: RolloutBatch) -> dict[str, list[str]]:
    """Columns beside the trainer's ``completions``: which task, which calls with which results, and how it ended."""
    return {
        "task": [str(member.task) for member in batch.trajectories],
        "tool_calls": [_calls(member) for member in batch.trajectories],
        "stopped": [str(member.stop_reason) for member in batch.trajectories],
    }


def _calls(trajectory: Trajectory) -> str:
    """One line a call: what was called with what, and what it gave."""
    lines: list[str] = []
    for step in trajectory.transitions:
        arguments = json.dumps(dict(step.action.input), ensure_ascii=False)
        reward = "" if step.reward is None else f" [{step.reward:g}]"
        text = " ".join(step.output.text.split())
        lines.append(f"{step.action.name} {arguments} → {text[:200]}{reward}")
    if trajectory.failure is not None:
        lines.append(f"{trajectory.failure.kind}: {trajectory.failure.message[:200]}")
    return "\n".join(lines)


def _zero_variance(batch: RolloutBatch) -> float:
    returns = iter(batch.returns)
    groups = [
        [value for value in (next(returns) for _ in group.members) if value is not None] for group in batch.groups
    ]
    scored = [values for values in groups if len(values) > 1]
    return sum(min(values) == max(values) for values in scored) / len(scored) if scored else 0.0
