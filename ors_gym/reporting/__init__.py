"""Records of episodes, progress on the terminal, and the report page."""

from ors_gym.reporting.dataset import to_dataset
from ors_gym.reporting.records import (
    TrajectoryWriter,
    finished_tasks,
    read_groups,
    read_records,
    read_trajectories,
)

__all__ = ["TrajectoryWriter", "finished_tasks", "read_groups", "read_records", "read_trajectories", "to_dataset"]
