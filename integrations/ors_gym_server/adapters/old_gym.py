"""Environments with the interface of gym, before Gymnasium, as Gymnasium environments.

::

    import crafter
    Crafter = as_ors_environment(lambda: OldGymEnv(crafter.Env), name="Crafter")

``reset`` may return only the observation, ``step`` four values, and ``reset``, a method ``seed`` or the constructor may
accept the seed. Spaces of other classes are read by their attributes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ors_gym.spaces import TextSpace

__all__ = ["OldGymEnv", "as_space"]


class OldGymEnv(gymnasium.Env[Any, Any]):
    """A gym environment with Gymnasium's interface.

    Args:
        make: The environment's class, or a function that creates it.
        observation_space: For environments that have none; by default any text, as in games of text.
        action_space: Likewise.
        **arguments: Arguments of ``make``.

    Raises:
        TypeError: a space is of an unknown kind.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        *,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
        **arguments: Any,
    ) -> None:
        self._make, self._arguments = make, arguments
        self._old = make(**arguments)
        self.observation_space = observation_space or _space_of(self._old, "observation_space")
        self.action_space = action_space or _space_of(self._old, "action_space")
        told: Mapping[str, Any] = getattr(self._old, "metadata", None) or {}
        modes = told.get("render_modes", told.get("render.modes", []))
        self.metadata = {**told, "render_modes": list(modes)}
        self.render_mode = getattr(self._old, "render_mode", None)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, with the seed if the environment accepts one."""
        super().reset(seed=seed)
        given: dict[str, Any] = {}
        takes = _parameters(self._old.reset)
        if seed is not None and "seed" in takes:
            given["seed"] = seed
        elif seed is not None and hasattr(self._old, "seed"):
            self._old.seed(seed)
        elif seed is not None and "seed" in _parameters(self._make):
            self.close()
            self._old = self._make(**self._arguments | {"seed": seed})
        if options is not None and "options" in takes:
            given["options"] = options
        answer = self._old.reset(**given)
        if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], dict):
            observation, info = answer
            return observation, info
        return answer, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step; an end by gym's TimeLimit is a truncation."""
        answer = self._old.step(action)
        if len(answer) == 5:
            observation, reward, terminated, truncated, info = answer
            return observation, reward, bool(terminated), bool(truncated), info
        observation, reward, done, info = answer
        truncated = bool(done) and bool(info.get("TimeLimit.truncated", False))
        return observation, reward, bool(done) and not truncated, truncated, info

    def render(self) -> Any:
        """The environment's frame."""
        if self.render_mode is None and "mode" in _parameters(self._old.render):
            return self._old.render(mode="rgb_array")
        return self._old.render()

    def close(self) -> None:
        """Close the environment, if it has a method for it."""
        if hasattr(self._old, "close"):
            self._old.close()

    def __getattr__(self, name: str) -> Any:
        """Any other attribute of the environment, such as its action names."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._old, name)


def as_space(space: Any) -> spaces.Space[Any]:
    """A space of gym, or one with the same attributes, as Gymnasium's.

    Raises:
        TypeError: the space is of an unknown kind.
    """
    if isinstance(space, spaces.Space):
        return space
    if hasattr(space, "low") and hasattr(space, "high"):
        dtype = np.dtype(getattr(space, "dtype", np.float32))
        low, high = (
            np.broadcast_to(bound, tuple(map(int, space.shape))).astype(dtype) for bound in (space.low, space.high)
        )
        return spaces.Box(low, high, dtype=dtype.type)
    if hasattr(space, "nvec"):
        return spaces.MultiDiscrete(np.asarray(space.nvec), dtype=np.dtype(getattr(space, "dtype", np.int64)).type)
    if hasattr(space, "spaces"):
        if isinstance(space.spaces, Mapping):
            return spaces.Dict([(key, as_space(each)) for key, each in space.spaces.items()])
        return spaces.Tuple([as_space(each) for each in space.spaces])
    if hasattr(space, "n") and getattr(space, "shape", None):
        return spaces.MultiBinary(space.n)
    if hasattr(space, "n"):
        return spaces.Discrete(int(space.n), start=int(getattr(space, "start", 0)))
    raise TypeError(f"the space {type(space).__module__}.{type(space).__qualname__} is not one of Gymnasium's kinds")


def _space_of(env: Any, name: str) -> spaces.Space[Any]:
    space = getattr(env, name, None)
    return TextSpace() if space is None else as_space(space)


def _parameters(function: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # of a class or function in C
        return set()
