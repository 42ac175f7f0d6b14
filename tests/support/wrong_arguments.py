"""Wrong arguments at a door: each is a ValueError in words that shows no key, secret or password."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

__all__ = ["KEY", "PASSWORD", "SECRET", "WRONG", "check_door"]

KEY, SECRET, PASSWORD = "key-that-no-one-sees", "secret-that-no-one-sees", "password-that-no-one-sees"

WRONG = (["x"], 5.5, "3", object(), {"a": object()}, [("a", "b")], b"x")
"""Each is wrong for most arguments."""


def check_door(
    door: Callable[..., Any], base: Mapping[str, Any], names: Iterable[str], fits: Mapping[str, tuple[type, ...]]
) -> int:
    """Try every wrong value for each of these arguments; returns how many were tried.

    Args:
        door: is called with keyword arguments.
        base: the right ones, with the secrets.
        names: the arguments.
        fits: the types among the wrong values that an argument takes after all.
    """
    tried = 0
    for name in (*names, "nonsense"):
        for wrong in WRONG:
            if isinstance(wrong, fits.get(name, ())):
                continue
            with pytest.raises(ValueError, match=r".") as caught:
                door(**{**base, name: wrong})
            shown = "".join(traceback.format_exception(caught.value))
            assert not [hidden for hidden in (KEY, SECRET, PASSWORD) if hidden in shown], (name, shown)
            tried += 1
    return tried
