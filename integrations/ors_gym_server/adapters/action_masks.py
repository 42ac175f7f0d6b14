"""Masks of currently possible actions, for environments that provide them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces

__all__ = ["mask_of", "without_mask"]

KEY = "action_mask"
"""Key in the info or the observation: a number for each action, 0 if it is not possible."""
_LISTS = ("legal_actions", "available_actions", "valid_actions")
"""Keys in the info: the numbers of the possible actions."""
_MASK_METHODS = ("action_masks", "valid_action_mask", "get_action_mask")
_LIST_METHODS = ("get_available_actions", "get_legal_actions")


def mask_of(env: gymnasium.Env[Any, Any], observation: Any, info: Mapping[str, Any]) -> list[bool] | None:
    """Whether each value of a Discrete action space is possible now; None if the environment does not say."""
    space = env.action_space
    if not isinstance(space, spaces.Discrete):
        return None
    masks: list[Any] = [info.get(KEY)]
    if isinstance(observation, Mapping):
        masks.append(cast("Mapping[str, Any]", observation).get(KEY))
    masks += _given_by(env.unwrapped, _MASK_METHODS)
    for mask in masks:
        values = np.asarray(mask)
        if values.shape == (space.n,) and values.dtype.kind in "biuf":
            return [bool(value) for value in values]
    for numbers in [info.get(name) for name in _LISTS] + _given_by(env.unwrapped, _LIST_METHODS):
        values = np.asarray(numbers)
        if values.ndim == 1 and len(values) and values.dtype.kind in "iu":
            return [number in values for number in range(int(space.start), int(space.start + space.n))]
    return None


def _given_by(env: Any, methods: tuple[str, ...]) -> list[Any]:
    found = (getattr(env, name, None) for name in methods)
    return [method() for method in found if callable(method)]


def without_mask(observation: Any) -> Any:
    """The observation without its mask, whose actions are listed by name instead."""
    if not isinstance(observation, Mapping):
        return observation
    parts = cast("Mapping[str, Any]", observation)
    rest = {name: part for name, part in parts.items() if name != KEY}
    return rest["observation"] if set(rest) == {"observation"} and KEY in parts else rest
