"""Open Reward Standard environments for ``gym.make`` loops, Ray and TRL's ``GRPOTrainer``.

Importing this package registers ``ors_gym/ORS-v0`` with Gymnasium, and imports neither ray, trl nor torch.
"""

from ors_gym.client.client import ORSClient
from ors_gym.client.janitor import Janitor
from ors_gym.client.portal import Portal, shared_portal
from ors_gym.client.session import Session, SessionState
from ors_gym.client.timeouts import Timeouts
from ors_gym.dialects import Dialect, UnknownDialectError, dialect_of
from ors_gym.envs.async_env import AsyncORSEnv
from ors_gym.envs.env import ORSEnv
from ors_gym.envs.registration import register_envs, register_ors
from ors_gym.envs.vector_env import ORSVectorEnv
from ors_gym.errors import (
    AmbiguousCallError,
    AuthenticationError,
    CallTimeoutError,
    CapacityError,
    ConnectError,
    ConnectionLostError,
    EndpointError,
    NotFoundError,
    ORSError,
    PortalError,
    ProtocolError,
    RequestTimeoutError,
    SessionClosedError,
    SessionError,
    SessionLostError,
    StartingError,
    StatusError,
    ToolFailedError,
    TransportError,
)
from ors_gym.http.asgi import ASGITransport
from ors_gym.policies.endpoint import ChatPolicy, EndpointRefusedError
from ors_gym.policies.policy import Policy, RandomPolicy, Reply, ScriptedPolicy, Turn
from ors_gym.redaction import Secret
from ors_gym.reporting.records import (
    TrajectoryWriter,
    finished_tasks,
    read_groups,
    read_records,
    read_trajectories,
    to_dataset,
)
from ors_gym.rollouts.episode import EpisodeHost, EpisodeRunner, RolloutLimits
from ors_gym.rollouts.groups import FailurePolicy, run_group, run_groups
from ors_gym.rollouts.returns import combine_scores, group_advantages, reduce_rewards, trajectory_return
from ors_gym.rollouts.tasks import TaskSampler, load_tasks, remaining_tasks
from ors_gym.spaces.spaces import TextSpace, ToolCallSpace
from ors_gym.trajectory import Exchange, Failure, StopReason, TaskRef, Trajectory, TrajectoryGroup, Transition
from ors_gym.types import (
    GroupCandidate,
    GroupScore,
    ImageBlock,
    Message,
    Split,
    Task,
    TextBlock,
    ToolCall,
    ToolList,
    ToolOutput,
    ToolSpec,
)

__version__ = "0.1.0"

register_ors()

__all__ = [
    "ASGITransport",
    "AmbiguousCallError",
    "AsyncORSEnv",
    "AuthenticationError",
    "CallTimeoutError",
    "CapacityError",
    "ChatPolicy",
    "ConnectError",
    "ConnectionLostError",
    "Dialect",
    "EndpointError",
    "EndpointRefusedError",
    "EpisodeHost",
    "EpisodeRunner",
    "Exchange",
    "Failure",
    "FailurePolicy",
    "GroupCandidate",
    "GroupScore",
    "ImageBlock",
    "Janitor",
    "Message",
    "NotFoundError",
    "ORSClient",
    "ORSEnv",
    "ORSError",
    "ORSVectorEnv",
    "Policy",
    "Portal",
    "PortalError",
    "ProtocolError",
    "RandomPolicy",
    "Reply",
    "RequestTimeoutError",
    "RolloutLimits",
    "ScriptedPolicy",
    "Secret",
    "Session",
    "SessionClosedError",
    "SessionError",
    "SessionLostError",
    "SessionState",
    "Split",
    "StartingError",
    "StatusError",
    "StopReason",
    "Task",
    "TaskRef",
    "TaskSampler",
    "TextBlock",
    "TextSpace",
    "Timeouts",
    "ToolCall",
    "ToolCallSpace",
    "ToolFailedError",
    "ToolList",
    "ToolOutput",
    "ToolSpec",
    "Trajectory",
    "TrajectoryGroup",
    "TrajectoryWriter",
    "Transition",
    "TransportError",
    "Turn",
    "UnknownDialectError",
    "combine_scores",
    "dialect_of",
    "finished_tasks",
    "group_advantages",
    "load_tasks",
    "read_groups",
    "read_records",
    "read_trajectories",
    "reduce_rewards",
    "register_envs",
    "register_ors",
    "remaining_tasks",
    "run_group",
    "run_groups",
    "shared_portal",
    "to_dataset",
    "trajectory_return",
]
