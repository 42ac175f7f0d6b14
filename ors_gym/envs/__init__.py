"""ORS episodes as Gymnasium environments and vector environments."""

from ors_gym.envs.async_env import AsyncORSEnv
from ors_gym.envs.env import ORSEnv
from ors_gym.envs.registration import register_envs
from ors_gym.envs.vector_env import ORSVectorEnv

__all__ = ["AsyncORSEnv", "ORSEnv", "ORSVectorEnv", "register_envs"]
