"""A rollout in numbers, under the names they have in the trainer's logs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ors_gym_trl.rollouts import RolloutBatch

__all__ = ["rollout_metrics"]


def rollout_metrics(batch: RolloutBatch) -> dict[str, float]:
    """Means over the batch's episodes; counts per batch; seconds of wall time.

    ``rollout/failed/<kind>`` counts every failed attempt, also those that a later attempt made good.
    """
    played = [trajectory for trajectory in batch.trajectories if not trajectory.failed]
    count = max(len(played), 1)
    metrics = {
        "rollout/turns": sum(t.num_turns for t in played) / count,
        "rollout/tool_calls": sum(len(t.transitions) for t in played) / count,
        "rollout/episode_seconds": sum(t.seconds for t in played) / count,
        "rollout/unscored": float(sum(value is None for value in batch.returns)),
        "rollout/dropped_groups": float(sum(group.dropped for group in batch.groups)),
        "rollout/seconds": batch.seconds,
        "rollout/sampling_seconds": batch.sampling_seconds,
    }
    stops = Counter(str(trajectory.stop_reason) for trajectory in batch.trajectories)
    failures = Counter(failure.kind for group in batch.groups for failure in group.failures)
    return (
        metrics
        | {f"rollout/stopped/{reason}": float(n) for reason, n in stops.items()}
        | {f"rollout/failed/{kind}": float(n) for kind, n in failures.items()}
    )
