"""Equality of observations, infos and rewards to the bit: types, dtypes, shapes, order and NaNs included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import GraphInstance


def are_identical(one: Any, other: Any) -> bool:
    """Whether two values are of one type and the same to the bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray) and one.dtype == object:
        return one.shape == other.shape and all(map(are_identical, one.reshape(-1), other.reshape(-1)))
    if isinstance(one, np.ndarray | np.generic):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    if isinstance(one, Mapping):
        return are_identical(list(one.items()), list(other.items()))
    if isinstance(one, list | tuple | GraphInstance):
        return len(one) == len(other) and all(map(are_identical, one, other))
    return repr(one) == repr(other)
