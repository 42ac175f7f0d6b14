"""Seeding of Gymnasium environments, and whether the first observation depends on the seed.

The check uses the environment that is constructed to read its spaces: it is reset twice, but not stepped, which may be
slow or have effects. Environments are tested further when they are served (:mod:`ors_gym_server.run.rehearsal`).
"""

from __future__ import annotations

import inspect
import logging
import random
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

__all__ = ["reset", "warn_of_ignored_seeds"]

logger = logging.getLogger(__name__)

SLOW_SECONDS = 1.0
"""An environment with a slower reset is only tested when it is served."""


def reset(env: gymnasium.Env[Any, Any], seed: int | None, options: Any = None) -> tuple[Any, Any]:
    """Start the episode of a seed, by the environment's own way of seeding.

    NLE and MiniHack ignore the seed of ``reset``; their method ``seed`` takes those of their two generators.
    """
    own = getattr(env.unwrapped, "seed", None)
    if seed is not None and own is not None:
        parameters = inspect.signature(own).parameters
        if {"core", "disp"} <= parameters.keys():
            own(core=seed, disp=seed, **({"reseed": False} if "reseed" in parameters else {}))
    return env.reset(seed=seed, options=options)


def warn_of_ignored_seeds(env: gymnasium.Env[Any, Any], name: str, show: Callable[[Any, Any], str]) -> None:
    """Log a warning if the same seed starts two different episodes.

    Args:
        env: The environment, which is reset.
        name: Its name.
        show: Formats an observation and its info as shown to an agent.
    """
    states = random.getstate(), np.random.get_state()
    began = time.monotonic()
    try:
        first = show(*reset(env, 0))
        if time.monotonic() > began + SLOW_SECONDS:
            return
        random.seed()
        np.random.seed()
        if show(*reset(env, 0)) == first:
            return
        again: list[str] = []
        for _ in range(2):
            random.seed(0)
            np.random.seed(0)
            again.append(show(*reset(env, 0)))
    except Exception:  # errors of a reset without a task are reported with a task
        return
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    why, remedy = "it does not draw everything from the seed", "its tasks are not reproducible"
    if again[0] == again[1]:
        why, remedy = "it draws from the random state of the process", "make reset() create its own generator"
    logger.warning("%s: two resets with the same seed start different episodes: %s; %s", name, why, remedy)
