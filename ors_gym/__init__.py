"""Open Reward Standard environments for ``gym.make`` loops, Ray and TRL's ``GRPOTrainer``.

These are the names that most programs need; import the rest from the subpackages: ``ors_gym.errors``,
``ors_gym.types``, ``ors_gym.rollouts``, ``ors_gym.reporting``, ….

Importing this package registers ``ors_gym/ORS-v0`` with Gymnasium, and imports neither ray, trl nor torch; what the
names stand for is imported when one is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from ors_gym.client.client import ORSClient
    from ors_gym.client.janitor import Janitor
    from ors_gym.client.session import Session
    from ors_gym.client.timeouts import Timeouts
    from ors_gym.envs.env import ORSEnv
    from ors_gym.envs.registration import register_envs
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

ORS_ID = "ors_gym/ORS-v0"

_NAMES = {
    "ors_gym.client.client": ("ORSClient",),
    "ors_gym.client.janitor": ("Janitor",),
    "ors_gym.client.session": ("Session",),
    "ors_gym.client.timeouts": ("Timeouts",),
    "ors_gym.envs.env": ("ORSEnv",),
    "ors_gym.envs.registration": ("register_envs",),
    "ors_gym.envs.vector_env": ("ORSVectorEnv",),
    "ors_gym.errors": ("ORSError",),
    "ors_gym.policies.endpoint": ("ChatPolicy",),
    "ors_gym.policies.policy": ("Policy", "RandomPolicy", "ScriptedPolicy", "Turn"),
    "ors_gym.redaction": ("Secret",),
    "ors_gym.reporting.records": ("TrajectoryWriter",),
    "ors_gym.rollouts.episode": ("EpisodeRunner", "RolloutLimits"),
    "ors_gym.rollouts.groups": ("FailurePolicy", "run_group", "run_groups"),
    "ors_gym.rollouts.returns": ("trajectory_return",),
    "ors_gym.rollouts.tasks": ("load_tasks",),
    "ors_gym.trajectory": ("Failure", "Reply", "StopReason", "TaskRef", "Trajectory", "TrajectoryGroup"),
    "ors_gym.types": ("ImageBlock", "Message", "TextBlock", "ToolCall", "ToolOutput", "ToolSpec"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}
_ROOMS = ("client", "dialects", "envs", "errors", "http", "policies", "reporting", "rollouts", "spaces", "types")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"ors_gym.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'ors_gym' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if ORS_ID not in gymnasium.registry:
    gymnasium.register(  # pyright: ignore[reportUnknownMemberType]  # Gymnasium's kwargs: dict
        ORS_ID,
        entry_point="ors_gym.envs.making:make_env",
        vector_entry_point="ors_gym.envs.making:make_vector_env",
    )
