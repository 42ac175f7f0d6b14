"""One member of a vector environment: selection of its next task, and autoreset."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode

from ors_gym.dialects import Action, check_action
from ors_gym.envs.async_env import AsyncORSEnv, EnvRecipe, Step
from ors_gym.errors import ORSError
from ors_gym.trajectory import Failure, StopReason, TaskRef

__all__ = ["SubEnv", "SubEnvResult"]


@dataclass(frozen=True, slots=True)
class SubEnvResult:
    """The result of a member's step or of the start of an episode."""

    observation: Any
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] = field(default_factory=dict[str, Any])
    final: Step | None = None
    """The step that ended the previous episode, if the same step started the next one."""


class SubEnv:
    """One member of a vector environment. Everything but `check_ready` runs on the event loop."""

    def __init__(self, recipe: EnvRecipe, mode: AutoresetMode, restarts: int) -> None:
        self.episode = AsyncORSEnv(recipe)
        self.rng = np.random.default_rng()
        self.seed = -1
        self.seeded = False
        self.observation: Any = _empty_observation(recipe)
        self.down: ORSError | None = None
        """Why no episode could be started."""
        self.tasks_missed = 0
        """Number of consecutive tasks that could not be started."""
        self._recipe = recipe
        self._mode = mode
        self._restarts = restarts
        self._begun = False
        self._over = False
        self._failures = 0
        """Failures of the task that is to be retried; 0 if the next task is due."""

    async def begin(self, task: TaskRef | None = None, *, again: bool = True) -> SubEnvResult:
        """Start the next episode: of ``task``, of the failed task (``again``), or of a newly drawn one."""
        if task is not None or not again or self._failures > self._restarts:
            self._failures = 0
        if task is None:
            task = self.episode.task if self._failures else None
        task = task or self._recipe.draw_task(self.rng)
        self._begun = True
        while True:
            try:
                self.observation, info = await self.episode.reset(task)
            except ORSError as error:
                self._failures += 1
                if self._failures <= self._restarts:
                    continue
                self.down, self._over, self.observation = error, True, _empty_observation(self._recipe)
                self.tasks_missed += 1
                return SubEnvResult(self.observation, math.nan, False, True, _failure_info(error))
            self.down, self._over, self.tasks_missed = None, False, 0
            return SubEnvResult(self.observation, info=info)

    def check_ready(self, action: Action) -> None:
        """Raise the errors of incorrect use that `advance` would raise, before any member steps."""
        if not self._begun:
            raise ResetNeeded("call reset before the first step")
        if self._over and self._mode is not AutoresetMode.NEXT_STEP and self.down is None:
            raise ResetNeeded("a member's episode is over: reset it with options={'reset_mask': …} first")
        check_action(action)

    async def advance(self, action: Action) -> SubEnvResult:
        """Take an action, and apply the autoreset mode at an episode's end."""
        if self._over:
            return await self.begin()
        try:
            step = await self.episode.step(action)
        except ORSError as error:
            self._failures += 1
            step = Step(self.observation, math.nan, False, True, _failure_info(error))
        else:
            self._failures = 0 if step.terminated or step.truncated else self._failures
        self.observation, self._over = step.observation, step.terminated or step.truncated
        if not self._over or self._mode is not AutoresetMode.SAME_STEP:
            return SubEnvResult(*step)
        begun = await self.begin()
        failure = {"failure": step.info["failure"]} if "failure" in step.info else {}
        return SubEnvResult(
            begun.observation, step.reward, step.terminated, step.truncated, {**failure, **begun.info}, step
        )


def _failure_info(error: ORSError) -> dict[str, Any]:
    return {"failure": Failure(error.kind, str(error)), "reward_given": False, "stop_reason": StopReason.FAILED}


def _empty_observation(recipe: EnvRecipe) -> Any:
    """The observation of a member without an episode."""
    return "" if recipe.observation_mode == "text" else ()
