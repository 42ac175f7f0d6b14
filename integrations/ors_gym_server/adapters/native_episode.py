"""A Gymnasium environment in its own spaces, for sessions that request it; see :mod:`ors_gym.spaces.native`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TimeLimit

from ors_gym.spaces.native import RENDER, RESET, SPACES, STEP, NativeOptions
from ors_gym.spaces.native_spaces import write_space
from ors_gym.spaces.native_values import read_value, write_value
from ors_gym.types import ToolOutput
from ors_gym_server.adapters.gymnasium_episode import AnyEnv, EnvFactory
from ors_gym_server.adapters.seed_tasks import SeedTasks
from ors_gym_server.adapters.seeding import reset

__all__ = ["NativeEpisode"]


class NativeEpisode:
    """The environment, or vector environment, of one native session. All methods run on one thread.

    Raises:
        ValueError: the options do not fit the environment.
    """

    def __init__(self, recipe: EnvFactory, tasks: SeedTasks, options: NativeOptions) -> None:
        make = partial(_make, recipe, tasks, options)
        self._env: AnyEnv | VectorEnv[Any, Any, Any] = make() if options.num_envs is None else _vector(make, options)
        self._begun = False
        try:
            self._described = _describe(self._env)
        except BaseException:
            self._env.close()
            raise
        self._calls: Mapping[str, Callable[[Mapping[str, Any]], ToolOutput]] = {
            SPACES: lambda given: ToolOutput(metadata=self._described),
            RESET: self._reset,
            STEP: self._step,
            RENDER: lambda given: ToolOutput(metadata={"frame": write_value(self._env.render())}),
        }

    def call(self, name: str, given: Mapping[str, Any]) -> ToolOutput:
        """Run one of the native tools. Exceptions of the environment propagate."""
        call = self._calls.get(name)
        if call is None:
            told = f"There is no tool {name!r} in a native session; there is {', '.join(self._calls)}."
            return ToolOutput(ok=False, error=told, reason="not_found")
        return call(given)

    def _reset(self, given: Mapping[str, Any]) -> ToolOutput:
        try:
            seed, options = read_value(given.get("seed")), read_value(given.get("options"))
        except ValueError as error:
            return _refused(str(error))
        observation, info = self._env.reset(seed=seed, options=options)
        self._begun = True
        return ToolOutput(metadata={"observation": write_value(observation), "info": write_value(info, lossy=True)})

    def _step(self, given: Mapping[str, Any]) -> ToolOutput:
        if not self._begun:
            return _refused(f"Call {RESET} before the first {STEP}.")
        if "action" not in given:
            return _refused(f"{STEP} needs an action.")
        try:
            action = read_value(given["action"])
        except ValueError as error:
            return _refused(str(error))
        observation, reward, terminated, truncated, info = self._env.step(action)
        values = {
            "observation": write_value(observation),
            "reward": write_value(reward),
            "terminated": write_value(terminated),
            "truncated": write_value(truncated),
            "info": write_value(info, lossy=True),
        }
        return ToolOutput(reward=_number(reward), metadata=values)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def _refused(error: str) -> ToolOutput:
    return ToolOutput(ok=False, error=error, reason="input_validation")


def _number(reward: Any) -> float | None:
    """The reward for clients that only count rewards: a finite number, or None, as for a vector."""
    array = np.asarray(reward)
    return float(array.item()) if array.ndim == 0 and math.isfinite(array.item()) else None


def _make(recipe: EnvFactory, tasks: SeedTasks, options: NativeOptions) -> AnyEnv:
    env = _bare(recipe, options.render_mode)
    try:
        if hasattr(env.unwrapped, "seed"):
            env = _SeededByItself(env)
        if options.max_episode_steps is not None:
            env = TimeLimit(env, options.max_episode_steps)
        return env if options.split is None else _TasksOfSplit(env, tasks, options.split)
    except BaseException:
        env.close()
        raise


def _bare(recipe: EnvFactory, render_mode: str | None) -> AnyEnv:
    """The environment with this session's render mode instead of that for models."""
    if isinstance(recipe.source, EnvSpec):
        arguments: dict[str, Any] = (
            {"disable_env_checker": True} | dict(recipe.arguments) | {"render_mode": render_mode}
        )
        return gymnasium.make(recipe.source, **arguments)
    env = recipe.make()
    if render_mode not in (None, env.render_mode):
        env.close()
        raise ValueError(f"the environment's function uses render_mode={env.render_mode!r}, not {render_mode!r}")
    return env


def _vector(make: Callable[[], AnyEnv], options: NativeOptions) -> VectorEnv[Any, Any, Any]:
    count = options.num_envs or 1
    return SyncVectorEnv([make] * count, copy=False, autoreset_mode=AutoresetMode(options.autoreset_mode))


def _describe(env: AnyEnv | VectorEnv[Any, Any, Any]) -> dict[str, Any]:
    if isinstance(env, VectorEnv):
        observations, actions = env.single_observation_space, env.single_action_space
    else:
        observations, actions = env.observation_space, env.action_space
    metadata = {name: value for name, value in env.metadata.items() if name != "autoreset_mode"}
    spec = env.envs[0].spec if isinstance(env, SyncVectorEnv) else env.spec
    try:
        described = {"observation_space": write_space(observations), "action_space": write_space(actions)}
    except TypeError as error:
        raise ValueError(f"{error}; wrap the environment in one whose spaces are Gymnasium's") from None
    return described | {"metadata": write_value(metadata, lossy=True), "spec": None if spec is None else spec.id}


class _SeededByItself(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Passes the seed of ``reset`` to environments with their own way of seeding."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return reset(self.env, seed, options)


class _TasksOfSplit(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Starts each episode with a task of one split, drawn by a generator that ``reset(seed=…)`` seeds."""

    def __init__(self, env: AnyEnv, tasks: SeedTasks, split: str) -> None:
        super().__init__(env)
        self._tasks, self._split, self._count = tasks, split, tasks.count(split)
        self._draws, _ = seeding.np_random()
        if not self._count:
            raise ValueError(f"the split {split!r} has no tasks")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._draws, _ = seeding.np_random(seed)
        task = self._tasks.at(self._split, int(self._draws.integers(self._count)))
        given = {**(task.get("options") or {}), **(options or {})}
        return self.env.reset(seed=task.get("seed"), options=given or None)
