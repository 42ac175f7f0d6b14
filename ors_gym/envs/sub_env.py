"""One member of a vector environment: which task comes next, and what happens after an episode's end."""

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
    """What a member's step, or the beginning of an episode, came to."""

    observation: Any
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] = field(default_factory=dict[str, Any])
    final: Step | None = None
    """The step that ended the episode before, where the same step began the next one."""


class SubEnv:
    """One member of a vector. Everything but `check_ready` runs on the event loop."""

    def __init__(self, recipe: EnvRecipe, mode: AutoresetMode, restarts: int) -> None:
        self.episode = AsyncORSEnv(recipe)
        self.rng = np.random.default_rng()
        self.seed = -1
        self.seeded = False
        self.observation: Any = _nothing_seen(recipe)
        self.down: ORSError | None = None
        """Why no episode could be begun."""
        self.tasks_missed = 0
        """How many tasks in a row could not be begun."""
        self._recipe = recipe
        self._mode = mode
        self._restarts = restarts
        self._begun = False
        self._over = False
        self._failures = 0
        """Of the task that is to be played again; 0 if the next one is to be."""

    async def begin(self, task: TaskRef | None = None, *, again: bool = True) -> SubEnvResult:
        """Begin the next episode: of ``task``, else of the task that failed (``again``), else of one drawn."""
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
                self.down, self._over, self.observation = error, True, _nothing_seen(self._recipe)
                self.tasks_missed += 1
                return SubEnvResult(self.observation, math.nan, False, True, _failure_info(error))
            self.down, self._over, self.tasks_missed = None, False, 0
            return SubEnvResult(self.observation, info=info)

    def check_ready(self, action: Action) -> None:
        """Raise what `advance` would raise for a mistake in its use, before any member moves."""
        if not self._begun:
            raise ResetNeeded("call reset before the first step")
        if self._over and self._mode is not AutoresetMode.NEXT_STEP and self.down is None:
            raise ResetNeeded("a member's episode is over: reset it with options={'reset_mask': …} first")
        check_action(action)

    async def advance(self, action: Action) -> SubEnvResult:
        """Take an action, and do at an episode's end what the autoreset mode says."""
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
        told = {"failure": step.info["failure"]} if "failure" in step.info else {}
        return SubEnvResult(
            begun.observation, step.reward, step.terminated, step.truncated, {**told, **begun.info}, step
        )


def _failure_info(error: ORSError) -> dict[str, Any]:
    return {"failure": Failure(error.kind, str(error)), "reward_given": False, "stop_reason": StopReason.FAILED}


def _nothing_seen(recipe: EnvRecipe) -> Any:
    """The observation of a member that has no episode."""
    return "" if recipe.observation_mode == "text" else ()
