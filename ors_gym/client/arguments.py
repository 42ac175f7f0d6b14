"""Checks of arguments: a wrong one is a ValueError whose message contains no value, which may be a key.

Never a TypeError, because ``gym.make`` adds all keyword arguments to its message, keys and secrets included.
"""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

__all__ = ["check_header", "check_number", "check_strings", "check_type", "types_in_words"]

P = ParamSpec("P")
R = TypeVar("R")


def types_in_words(function: Callable[P, R]) -> Callable[P, R]:
    """Turn every TypeError of a call, also for a missing argument, into a ValueError."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            reason = str(error)
        raise ValueError(f"wrong arguments: {reason}")

    return call


def check_type(name: str, value: object, *kinds: type, none: bool = True, what: str = "") -> None:
    """Check that a value is of one of these types.

    Raises:
        ValueError: with the argument's name and the type of what was given.
    """
    if (value is None and none) or (isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)):
        return
    wanted = what or " or ".join(kind.__name__ for kind in kinds)
    raise ValueError(f"{name} must be {wanted}{' or None' if none else ''}, got {type(value).__name__}")


def check_number(name: str, value: object, *, none: bool = True, whole: bool = False) -> None:
    """Check that a value is a number, or an integer."""
    kind = numbers.Integral if whole else numbers.Real  # numpy's too
    check_type(name, value, kind, none=none, what="a whole number" if whole else "a number")


def check_header(what: str, name: str, value: str) -> None:
    """Check that HTTP can carry a header, unlike a key with the line break of its file."""
    if not name or any(character <= " " or character in ":\x7f" for character in name) or not name.isascii():
        raise ValueError(f"{what} is no header's name")
    if any(character < " " or character > "\xff" or character == "\x7f" for character in value.replace("\t", " ")):
        raise ValueError(f"{what} holds a line break, or a character that no header can carry")


def check_strings(name: str, value: Any, *, none: bool = True) -> None:
    """Check that a value is a mapping of strings to strings."""
    check_type(name, value, Mapping, none=none, what="a mapping of names to text")
    entries: Mapping[Any, Any] = value or {}
    for key, each in entries.items():
        if not isinstance(key, str) or not isinstance(each, str):
            raise ValueError(f"{name} must be a mapping of names to text, got a {type(each).__name__} among the values")
