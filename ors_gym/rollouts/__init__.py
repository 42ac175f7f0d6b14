"""Playing episodes: one, a group, and many at once; returns and task order."""

from ors_gym.rollouts.episode import EpisodeHost, EpisodeRunner, RolloutLimits
from ors_gym.rollouts.groups import FailurePolicy, run_group, run_groups
from ors_gym.rollouts.options import SessionOptions
from ors_gym.rollouts.returns import combine_scores, group_advantages, reduce_rewards, trajectory_return
from ors_gym.rollouts.tasks import TaskSampler, load_tasks, remaining_tasks

__all__ = [
    "EpisodeHost",
    "EpisodeRunner",
    "FailurePolicy",
    "RolloutLimits",
    "SessionOptions",
    "TaskSampler",
    "combine_scores",
    "group_advantages",
    "load_tasks",
    "reduce_rewards",
    "remaining_tasks",
    "run_group",
    "run_groups",
    "trajectory_return",
]
