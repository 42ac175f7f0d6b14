"""A run in numbers, while it goes on: counts of what happened, for logs, displays and Prometheus.

::

    metrics = RolloutMetrics()
    host = metrics.watch(EpisodeRunner(client, policy))        # every episode played on it is counted
    async for group in run_groups(host, tasks, group_size=8):
        metrics.count_group(group)
        print(metrics.as_dict())

    prometheus_client.REGISTRY.register(PrometheusCollector(metrics))
    prometheus_client.start_http_server(9400)

Prometheus, because its client is one package without dependencies (extra ``metrics``), vLLM, SGLang and Ray export the
same way, and OpenTelemetry's collector reads it too. The numbers are read when they are scraped: episodes pay nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from ors_gym.policies.policy import Policy
from ors_gym.rollouts.episode import EpisodeHost
from ors_gym.rollouts.returns import trajectory_return
from ors_gym.trajectory import TaskRef, Trajectory, TrajectoryGroup
from ors_gym.types import GroupCandidate, GroupScore

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["PrometheusCollector", "RolloutMetrics"]


class RolloutMetrics:
    """Counts of a run. Episodes include those that failed and were played again; groups count once.

    ``score`` says what a trajectory's return is.
    """

    def __init__(self, score: Callable[[Trajectory], float | None] = trajectory_return) -> None:
        self._score = score
        self.running = 0
        """Episodes under way, those that wait for a session's place included."""
        self.stop_reasons: Counter[str] = Counter()
        """Episodes that ended, by their stop reason."""
        self.failures: Counter[str] = Counter()
        """Episodes that failed, by kind."""
        self.tool_calls: Counter[str] = Counter()
        """Tool calls, by tool."""
        self.cancelled = 0
        """Episodes ended by whoever played them: redundant ones, and those of a run that was stopped."""
        self.groups: Counter[str] = Counter()
        """Groups, by ``kept`` and ``dropped``."""
        self.refills = 0
        """Groups played in the place of a dropped one."""
        self.turns = 0
        self.tokens = 0
        self.episode_seconds = 0.0
        self.tool_seconds = 0.0
        self.returns = 0
        """Episodes that have a return."""
        self.return_sum = 0.0

    @property
    def episodes(self) -> int:
        """Episodes that ended."""
        return self.stop_reasons.total()

    @property
    def mean_return(self) -> float | None:
        """The mean of the returns so far; None while there is none."""
        return self.return_sum / self.returns if self.returns else None

    def watch(self, host: EpisodeHost) -> EpisodeHost:
        """A host that plays on ``host``, with every episode counted here."""
        return _WatchedHost(host, self)

    def count_episode(self, episode: Trajectory) -> None:
        """Count an episode that ended. A watched host does this itself."""
        self.stop_reasons[str(episode.stop_reason)] += 1
        if episode.failure is not None:
            self.failures[episode.failure.kind] += 1
        self.tool_calls.update(transition.action.name for transition in episode.transitions)
        self.tool_seconds += math.fsum(transition.seconds for transition in episode.transitions)
        self.episode_seconds += episode.seconds
        self.turns += episode.num_turns
        self.tokens += episode.num_tokens or 0
        value = self._score(episode)
        if value is not None:
            self.returns += 1
            self.return_sum += value

    def count_group(self, group: TrajectoryGroup) -> None:
        """Count a group that ended, without its episodes."""
        self.groups["dropped" if group.dropped else "kept"] += 1
        self.refills += group.refilled_for is not None

    def as_dict(self) -> dict[str, float]:
        """All of it as flat numbers, for a logger: ``{"episodes": 12, "stop_reason/finished": 11, …}``."""
        numbers: dict[str, float] = {
            "running": self.running,
            "episodes": self.episodes,
            "cancelled": self.cancelled,
            "refills": self.refills,
            "turns": self.turns,
            "tokens": self.tokens,
            "episode_seconds": self.episode_seconds,
            "tool_seconds": self.tool_seconds,
        }
        if self.mean_return is not None:
            numbers["mean_return"] = self.mean_return
        counted = {
            "stop_reason": self.stop_reasons,
            "failure": self.failures,
            "tool_call": self.tool_calls,
            "groups": self.groups,
        }
        return numbers | {f"{name}/{key}": count for name, counts in counted.items() for key, count in counts.items()}


class _WatchedHost:
    def __init__(self, host: EpisodeHost, metrics: RolloutMetrics) -> None:
        self._host = host
        self._metrics = metrics

    async def run_episode(
        self, task: TaskRef, *, policy: Policy | None = None, attempt: int = 0, seed: int | None = None
    ) -> Trajectory:
        self._metrics.running += 1
        try:
            episode = await self._host.run_episode(task, policy=policy, attempt=attempt, seed=seed)
        except BaseException:
            self._metrics.cancelled += 1
            raise
        finally:
            self._metrics.running -= 1
        self._metrics.count_episode(episode)
        return episode

    async def score_group(self, task: TaskRef, candidates: Sequence[GroupCandidate]) -> Sequence[GroupScore]:
        return await self._host.score_group(task, candidates)


class PrometheusCollector:
    """What a Prometheus registry asks for the numbers: ``prometheus_client.REGISTRY.register(…)``."""

    def __init__(self, metrics: RolloutMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """The numbers as they are now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

        now = self._metrics
        yield GaugeMetricFamily("ors_gym_episodes_running", "Episodes under way.", now.running)
        labelled = (
            ("ors_gym_episodes", "Episodes that ended, by stop reason.", "stop_reason", now.stop_reasons),
            ("ors_gym_failures", "Episodes that failed, by kind.", "kind", now.failures),
            ("ors_gym_tool_calls", "Tool calls, by tool.", "tool", now.tool_calls),
            ("ors_gym_groups", "Groups, kept and dropped.", "outcome", now.groups),
        )
        for name, documentation, label, counts in labelled:
            family = CounterMetricFamily(name, documentation, labels=[label])
            for key, count in sorted(dict(counts).items()):  # a copy: a scrape comes from another thread
                family.add_metric([key], count)
            yield family
        counted = (
            ("ors_gym_episodes_cancelled", "Episodes that were given up while they went on.", now.cancelled),
            ("ors_gym_refills", "Groups played in the place of a dropped one.", now.refills),
            ("ors_gym_turns", "Messages of the policy.", now.turns),
            ("ors_gym_tokens", "Tokens that the policy wrote.", now.tokens),
        )
        for name, documentation, count in counted:
            yield CounterMetricFamily(name, documentation, count)
        calls = now.tool_calls.total()
        yield SummaryMetricFamily(
            "ors_gym_episode_seconds", "How long episodes took.", now.episodes, now.episode_seconds
        )
        yield SummaryMetricFamily("ors_gym_tool_call_seconds", "How long tool calls took.", calls, now.tool_seconds)
        yield SummaryMetricFamily("ors_gym_episode_return", "Returns of episodes.", now.returns, now.return_sum)
