"""Linear-time scanning of model output, within limits.

Nothing here searches for the end of a JSON value: it ends where the decoder stops. Unreadable text raises
:class:`UnreadableCallError`, which :meth:`~ors_gym.dialects.base.Dialect.parse` turns into an error message for the
model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeAlias, cast

__all__ = [
    "MAX_CALLS",
    "MAX_CHARACTERS",
    "MAX_DEPTH",
    "MAX_DIGITS",
    "ParseReason",
    "UnreadableCallError",
    "check_value",
    "decode_json",
    "decode_number",
    "excerpt",
    "expect",
    "skip_space",
    "value_end",
    "without",
]

MAX_CHARACTERS = 1 << 24
"""Maximum characters of a message."""
MAX_CALLS = 256
"""Maximum calls of one message."""
MAX_DEPTH = 100
"""Maximum nesting of arguments."""
MAX_DIGITS = 4300
"""Maximum digits of an integer, equal to Python's own limit: converting digits takes quadratic time."""

ParseReason: TypeAlias = Literal[
    "invalid_json", "invalid_call", "unfinished_call", "unclosed_thinking", "too_large", "no_tool_call"
]
"""Why no call could be read, in addition to a server's reasons (``not_found``, ``input_validation``, …)."""


class UnreadableCallError(ValueError):
    """A call that cannot be read, with the reason."""

    def __init__(self, reason: ParseReason, why: str) -> None:
        super().__init__(reason, why)
        self.reason: ParseReason = reason
        self.why = why

    def __str__(self) -> str:
        return self.why


_SPACE = re.compile(r"[ \t\r\n]*")
_SPACE_AND_SEMICOLONS = re.compile(r"[ \t\r\n;]*")


def skip_space(text: str, start: int, *, semicolons: bool = False) -> int:
    """The first position from ``start`` that is not white space (or a semicolon)."""
    match = (_SPACE_AND_SEMICOLONS if semicolons else _SPACE).match(text, start)
    return match.end() if match else start


def excerpt(text: str, start: int = 0, length: int = 60) -> str:
    """A short quote from the text; lone surrogates become question marks."""
    quoted = text[start : start + length] + ("…" if len(text) > start + length else "")
    return quoted.encode("utf-8", "replace").decode()


@cache
def _reversed_endings(endings: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join([r"(?:[ \t\r\n]", *(re.escape(ending[::-1]) for ending in endings)]) + ")*+")


def without(text: str, endings: tuple[str, ...]) -> int:
    """The end of the text without white space and ``endings``, in any order and number."""
    backwards = _reversed_endings(endings).match(text[::-1])
    return len(text) - (backwards.end() if backwards else 0)


def value_end(text: str, start: int, closing: str, following: tuple[str, ...]) -> tuple[int, int]:
    """The end of a raw value, and the start of what follows its closing mark.

    The value may contain the closing mark: it ends at the first one that is followed by one of ``following``.
    """
    position = start
    while (end := text.find(closing, position)) >= 0:
        after = skip_space(text, end + len(closing))
        if text.startswith(following, after):
            return end, after
        position = end + len(closing)
    ends = f"{closing} followed by {' or '.join(following)}"
    raise UnreadableCallError("unfinished_call", f"the value {excerpt(text, start)!r} does not end with {ends}")


def expect(text: str, position: int, mark: str) -> int:
    """The position after ``mark``, which must be at ``position``."""
    if text.startswith(mark, position):
        return position + len(mark)
    if mark.startswith(text[position : position + len(mark)]):
        raise UnreadableCallError("unfinished_call", f"the message ends within a call, before {mark}")
    raise UnreadableCallError("invalid_call", f"{mark} is missing before {excerpt(text, position)!r}")


def _no_constant(name: str) -> Any:
    raise UnreadableCallError("invalid_json", f"{name} is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise UnreadableCallError("too_large", f"an integer has {len(digits)} digits, more than {MAX_DIGITS}")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise UnreadableCallError("too_large", f"the number {excerpt(digits)} is too large")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in pairs:
        if key in fields:
            raise UnreadableCallError("invalid_json", f"{excerpt(key)!r} is given twice")
        fields[key] = value
    return fields


# Models write raw line breaks in JSON strings, where the standard requires \n: accepted.
_decoder = json.JSONDecoder(
    strict=False, parse_constant=_no_constant, parse_int=_integer, parse_float=_float, object_pairs_hook=_object
)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(\.[0-9]++)?([eE][+-]?[0-9]++)?")


def decode_json(text: str, start: int = 0, *, whole: bool = False) -> tuple[Any, int]:
    """The JSON value at ``start``, and its end; with ``whole``, nothing may follow it."""
    start = skip_space(text, start)
    try:
        value, end = _decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        if error.pos >= len(text) or error.msg.startswith("Unterminated"):
            raise UnreadableCallError("unfinished_call", f"the message ends within {excerpt(text, start)}") from None
        why = f"{error.msg} at {excerpt(text, error.pos)!r} in {excerpt(text, start)}"
        raise UnreadableCallError("invalid_json", why) from None
    except RecursionError:
        raise UnreadableCallError("too_large", "the JSON is nested too deeply") from None
    if whole and skip_space(text, end) < len(text):
        raise UnreadableCallError("invalid_json", f"{excerpt(text, end)!r} follows the JSON")
    return value, end


def decode_number(text: str, start: int) -> tuple[int | float, int] | None:
    """The number at ``start``, and its end; None if there is none."""
    match = _NUMBER.match(text, start)
    if match is None:
        return None
    return (_float(match[0]) if match[1] or match[2] else _integer(match[0])), match.end()


def check_value(value: Any) -> None:
    """Refuse values that no server accepts: nesting beyond ``MAX_DEPTH`` and lone surrogates."""
    layer: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for one in layer:
            if isinstance(one, str):
                _check_text(one)
            elif isinstance(one, Mapping):
                fields = cast("Mapping[str, Any]", one)
                inner.extend(fields)
                inner.extend(fields.values())
            elif isinstance(one, list):
                inner.extend(one)  # pyright: ignore[reportUnknownArgumentType]
        if not inner:
            return
        layer = inner
    raise UnreadableCallError("too_large", f"the arguments are nested more than {MAX_DEPTH} deep")


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"U+{ord(text[error.start]):04X}"
            raise UnreadableCallError("invalid_call", f"{half} is a lone surrogate, not a character") from None
