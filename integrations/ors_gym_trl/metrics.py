"""A rollout in numbers and words, under the names they have in the trainer's logs and in its table of completions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from ors_gym.rollouts.summary import Summary
from ors_gym.trajectory import StopReason, Trajectory
from ors_gym_trl.batch import RolloutBatch

__all__ = ["episode_table", "rollout_metrics"]


def rollout_metrics(batch: RolloutBatch) -> dict[str, float]:
    """Metrics of a rollout: means over episodes, counts per batch, seconds of wall time.

    ``rollout/failed/<kind>`` counts every failed attempt, also those that a later attempt made good. The trainer logs
    its mean over the batches and processes that had one of that kind; of everything else, the mean over all.
    ``rollout/zero_variance_groups`` is the share of groups whose returns are all equal: they teach nothing.
    ``rollout/replaced_equal_groups`` is the share, of all groups played, of those of which that was so and that another
    task's group was played for (``equal_groups="replace"``).
    ``rollout/environment_seconds`` is the mean time an episode spent in tool calls. ``rollout/staleness`` is the mean
    over groups, ``rollout/max_staleness`` the largest, with ``carried_groups``.
    """
    if not batch.groups:  # other processes play the groups of which this one has rows
        return {}
    returns = dict(zip((member.episode_id for member in batch.trajectories), batch.returns, strict=True))
    summary = Summary.of(batch.groups, lambda member: returns[member.episode_id])
    replaced = Summary.of(batch.replaced_groups)
    metrics = {
        "rollout/turns": summary.mean_turns,
        "rollout/tool_calls": summary.mean_calls,
        "rollout/refused_calls": summary.mean_refused_calls,
        "rollout/tool_errors": summary.tool_errors / max(summary.episodes - summary.failed, 1),
        "rollout/episode_seconds": summary.mean_seconds,
        "rollout/environment_seconds": summary.mean_tool_seconds,
        "rollout/episode_tokens": batch.sampled_tokens / max(summary.episodes - summary.failed, 1),
        "rollout/unscored": summary.episodes - summary.scored,
        "rollout/dropped_groups": summary.dropped_groups + replaced.dropped_groups,
        "rollout/refilled_groups": summary.refilled_groups,
        "rollout/zero_variance_groups": summary.equal_groups / max(summary.compared_groups, 1),
        "rollout/replaced_equal_groups": (replaced.groups - replaced.dropped_groups)
        / (summary.groups + replaced.groups),
        "rollout/seconds": batch.seconds,
        "rollout/sampling_seconds": batch.sampling_seconds,
    }
    if batch.staleness:
        metrics["rollout/staleness"] = sum(batch.staleness) / len(batch.staleness)
        metrics["rollout/max_staleness"] = max(batch.staleness)
    failures = Counter(summary.failures) + Counter(replaced.failures)
    return (
        {name: float(value or 0.0) for name, value in metrics.items()}
        | {f"rollout/stopped/{reason}": float(summary.stop_reasons.get(reason, 0)) for reason in StopReason}
        | {f"rollout/failed/{kind}": float(count) for kind, count in failures.items()}
    )


def episode_table(members: Sequence[Trajectory]) -> dict[str, list[str]]:
    """Columns in addition to the trainer's ``completions``: the task, the calls with their results, and the end."""
    return {
        "task": [str(member.task) for member in members],
        "tool_calls": [_calls(member) for member in members],
        "stopped": [str(member.stop_reason) for member in members],
    }


def _calls(trajectory: Trajectory) -> str:
    """One line per call: name, input and output."""
    lines: list[str] = []
    for step in trajectory.transitions:
        arguments = json.dumps(dict(step.action.input), ensure_ascii=False)
        reward = "" if step.reward is None else f" [{step.reward:g}]"
        text = " ".join(step.output.text.split())
        lines.append(f"{step.action.name} {arguments} → {text[:200]}{reward}")
    if trajectory.failure is not None:
        lines.append(f"{trajectory.failure.kind}: {trajectory.failure.message[:200]}")
    return "\n".join(lines)
