"""Metrics of an actor's episodes in Ray's own metrics, which its dashboard and its Prometheus endpoints show."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from ors_gym.trajectory import Trajectory

__all__ = ["EpisodeMetrics"]

SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]


class EpisodeMetrics:
    """The episodes of one actor, under the tags ``pool`` (the pool's name) and ``actor`` (its number there)."""

    def __init__(self, pool: str, actor: int) -> None:
        tags = {"pool": pool, "actor": str(actor)}
        common = ("pool", "actor")
        self._running = Gauge("ors_gym_episodes_running", "Episodes that are being played.", common)
        self._ended = Counter(
            "ors_gym_episodes_ended", "Episodes by how they ended.", (*common, "env_name", "stop_reason")
        )
        self._failed = Counter(
            "ors_gym_episodes_failed", "Episodes that failed, by kind.", (*common, "env_name", "kind")
        )
        self._turns = Counter("ors_gym_turns", "Messages of the policy.", (*common, "env_name"))
        self._seconds = Histogram(
            "ors_gym_episode_seconds", "From the opening of a session to its end.", SECONDS, (*common, "env_name")
        )
        self._tool_seconds = Histogram(
            "ors_gym_tool_call_seconds", "From a call to its result, of all tools.", SECONDS, (*common, "env_name")
        )
        for metric in (self._running, self._ended, self._failed, self._turns, self._seconds, self._tool_seconds):
            metric.set_default_tags(tags)

    def running(self, count: int) -> None:
        """Set the number of running episodes."""
        self._running.set(count)

    def ended(self, episode: Trajectory) -> None:
        """An episode is over."""
        environment = {"env_name": episode.task.env_name}
        self._ended.inc(1, {**environment, "stop_reason": str(episode.stop_reason)})
        if episode.failure is not None:
            self._failed.inc(1, {**environment, "kind": episode.failure.kind})
        if episode.num_turns:
            self._turns.inc(episode.num_turns, environment)
        self._seconds.observe(episode.seconds, environment)
        for step in episode.transitions:
            self._tool_seconds.observe(step.seconds, environment)
