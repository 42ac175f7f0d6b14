"""Open Reward Standard environments for ``gym.make`` loops, Ray and TRL's ``GRPOTrainer``.

These are the names that most programs need; import the rest from the subpackages: ``ors_gym.errors``,
``ors_gym.types``, ``ors_gym.rollouts``, ``ors_gym.reporting``, ….

Importing this package registers ``ors_gym/ORS-v0`` with Gymnasium, and imports neither ray, trl nor torch.
"""

from ors_gym.client.client import ORSClient
from ors_gym.client.janitor import Janitor
from ors_gym.client.session import Session
from ors_gym.client.timeouts import Timeouts
from ors_gym.envs.env import ORSEnv
from ors_gym.envs.registration import register_envs, register_ors
from ors_gym.envs.vector_env import ORSVectorEnv
from ors_gym.errors import ORSError
from ors_gym.policies.endpoint import ChatPolicy
from ors_gym.policies.policy import Policy, RandomPolicy, ScriptedPolicy, Turn
from ors_gym.redaction import Secret
from ors_gym.reporting.records import TrajectoryWriter
from ors_gym.rollouts.episode import EpisodeRunner, RolloutLimits
from ors_gym.rollouts.groups import FailurePolicy, run_group, run_groups
from ors_gym.rollouts.returns import trajectory_return
from ors_gym.rollouts.tasks import load_tasks
from ors_gym.trajectory import Failure, Reply, StopReason, TaskRef, Trajectory, TrajectoryGroup
from ors_gym.types import ImageBlock, Message, TextBlock, ToolCall, ToolOutput, ToolSpec

__version__ = "0.1.0"

register_ors()

__all__ = [
    "ChatPolicy",
    "EpisodeRunner",
    "Failure",
    "FailurePolicy",
    "ImageBlock",
    "Janitor",
    "Message",
    "ORSClient",
    "ORSEnv",
    "ORSError",
    "ORSVectorEnv",
    "Policy",
    "RandomPolicy",
    "Reply",
    "RolloutLimits",
    "ScriptedPolicy",
    "Secret",
    "Session",
    "StopReason",
    "TaskRef",
    "TextBlock",
    "Timeouts",
    "ToolCall",
    "ToolOutput",
    "ToolSpec",
    "Trajectory",
    "TrajectoryGroup",
    "TrajectoryWriter",
    "Turn",
    "load_tasks",
    "register_envs",
    "run_group",
    "run_groups",
    "trajectory_return",
]
