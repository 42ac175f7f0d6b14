"""ORS environments as Inspect tasks, and ors-gym runs as Inspect logs.

``inspect eval ors_gym_inspect/ors_task -T url=http://localhost:8080 --model …`` plays a split with any model of
Inspect; ``ors-gym inspect RUN`` converts the episodes of a run to logs for ``inspect view``.
"""

from ors_gym.extras import packages_of

with packages_of("inspect"):
    from ors_gym_inspect.logs import inspect_logs, write_inspect_logs
    from ors_gym_inspect.play import play_episode
    from ors_gym_inspect.scoring import episode_return, episode_success
    from ors_gym_inspect.task import ors_task

__all__ = [
    "episode_return",
    "episode_success",
    "inspect_logs",
    "ors_task",
    "play_episode",
    "write_inspect_logs",
]
