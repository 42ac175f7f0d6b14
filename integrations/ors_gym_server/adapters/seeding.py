"""Seeds of Gymnasium environments: how they are given, and whether the first observation follows from them.

The check is a first look at the environment that is made to see its spaces: it is reset twice, and not stepped, which
may take long or change something. Environments are tried for more when they are served
(:mod:`ors_gym_server.run.rehearsal`).
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
"""An environment that takes longer to begin is looked at when it is served."""


def reset(env: gymnasium.Env[Any, Any], seed: int | None, options: Any = None) -> tuple[Any, Any]:
    """Begin the episode of a seed, by whatever the environment takes a seed with.

    NLE and MiniHack leave the seed of ``reset`` alone, and take those of their two generators by ``seed``.
    """
    own = getattr(env.unwrapped, "seed", None)
    if seed is not None and own is not None:
        parameters = inspect.signature(own).parameters
        if {"core", "disp"} <= parameters.keys():
            own(core=seed, disp=seed, **({"reseed": False} if "reseed" in parameters else {}))
    return env.reset(seed=seed, options=options)


def warn_of_ignored_seeds(env: gymnasium.Env[Any, Any], name: str, show: Callable[[Any, Any], str]) -> None:
    """Log a warning where the same seed begins two episodes.

    Args:
        env: It is reset.
        name: What it is called.
        show: What an agent is shown of an observation and its info.
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
    except Exception:  # what cannot begin without a task says so when it is given one
        return
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    why, remedy = "it does not use the seed for all that it draws", "its tasks are not what they say"
    if again[0] == again[1]:
        why, remedy = "it draws from the random state of the process", "have reset() make a generator of its own"
    logger.warning("%s: reset with one seed, it begins two different episodes: %s; %s", name, why, remedy)
