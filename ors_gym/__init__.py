"""Open Reward Standard environments for ``gym.make`` loops, Ray and TRL's ``GRPOTrainer``.

Importing this package registers ``ors_gym/ORS-v0`` with Gymnasium, and imports neither ray, trl nor torch.
"""

from ors_gym.actions import ActionParser, ParsedText, action_parser
from ors_gym.client import ORSClient
from ors_gym.errors import ORSError
from ors_gym.policy import Policy, RandomPolicy, Reply, ScriptedPolicy, Turn
from ors_gym.portal import Portal
from ors_gym.registration import register_envs, register_ors
from ors_gym.rollout import EpisodeHost, EpisodeRunner, FailurePolicy, RolloutLimits, run_group, run_groups
from ors_gym.session import Session
from ors_gym.spaces import ToolCallSpace
from ors_gym.trajectory import Failure, StopReason, TaskRef, Trajectory, TrajectoryGroup, Transition
from ors_gym.types import ImageBlock, Message, Split, Task, TextBlock, ToolCall, ToolList, ToolOutput, ToolSpec

__version__ = "0.1.0"

register_ors()

__all__ = [
    "ActionParser",
    "EpisodeHost",
    "EpisodeRunner",
    "Failure",
    "FailurePolicy",
    "ImageBlock",
    "Message",
    "ORSClient",
    "ORSError",
    "ParsedText",
    "Policy",
    "Portal",
    "RandomPolicy",
    "Reply",
    "RolloutLimits",
    "ScriptedPolicy",
    "Session",
    "Split",
    "StopReason",
    "Task",
    "TaskRef",
    "TextBlock",
    "ToolCall",
    "ToolCallSpace",
    "ToolList",
    "ToolOutput",
    "ToolSpec",
    "Trajectory",
    "TrajectoryGroup",
    "Transition",
    "Turn",
    "action_parser",
    "register_envs",
    "run_group",
    "run_groups",
]
