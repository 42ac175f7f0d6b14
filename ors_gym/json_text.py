"""JSON of servers, models and files: the only module that reads and writes it.

Reading is limited in length, depth, digits and number of values; beyond a limit it raises ``ValueError``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from ors_gym.errors import ProtocolError

__all__ = ["LIMITS", "JSONLimits", "encode_json", "has_more_values", "parse_json", "read_json"]


@dataclass(frozen=True, slots=True)
class JSONLimits:
    """Limits of a JSON text."""

    max_bytes: int = 64 * 2**20
    """Maximum length in bytes or characters."""
    max_depth: int = 200
    """Maximum nesting. Python's own limit is near 1,000, shared with the caller's frames."""
    max_digits: int = 4300
    """Maximum digits of an integer: Python's default, independent of ``sys.set_int_max_str_digits``."""
    max_values: int = 2_000_000
    """Maximum number of values and keys: 64 MiB of ``[],[],…`` would take more than a gigabyte."""


LIMITS = JSONLimits()
"""The default limits."""

_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json(text: str | bytes, limits: JSONLimits = LIMITS) -> Any:
    r"""Read JSON; a lone surrogate becomes U+FFFD, so that the text can be encoded.

    >>> read_json('{"a": "\\ud800"}')
    {'a': '�'}
    >>> read_json("[" * 1000)
    Traceback (most recent call last):
    ValueError: nested deeper than 200

    Raises:
        ValueError: the text is not JSON, or exceeds the limits.
    """
    if len(text) > limits.max_bytes:
        raise ValueError(f"longer than {limits.max_bytes:,} bytes")
    if has_more_values(text, limits.max_values):
        raise ValueError(f"more than {limits.max_values:,} values")
    if isinstance(text, bytes):
        text = text.removeprefix(b"\xef\xbb\xbf").decode()
    brackets = text.count("[") + text.count("{")
    try:
        value = _decoder(limits).decode(text)
    except RecursionError:
        too_deep(limits)
    if brackets > limits.max_depth and is_deeper(value, limits.max_depth):
        too_deep(limits)
    if _ESCAPED_SURROGATE.search(text) or (not text.isascii() and _LONE_SURROGATE.search(text)):
        return _without_surrogates(value)
    return value


def has_more_values(text: str | bytes, limit: int) -> bool:
    """Whether a JSON text holds more than ``limit`` values and keys, at a small part of the cost of reading it.

    >>> has_more_values('["a,b", {}]', 3), has_more_values('["a,b", {}, 1]', 3)
    (False, True)
    """
    if len(text) <= limit:
        return False
    encoded = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if _separators(encoded) <= limit:
        return False
    encoded = encoded.replace(rb"\\", b"").replace(rb"\"", b"")
    if encoded.count(b'"') > 2 * limit:  # every string is a value or a key
        return True
    return _separators(b"".join(encoded.split(b'"')[::2])) > limit


def _separators(text: bytes) -> int:
    """Brackets that open, commas and colons: as many as there are values and keys, empty containers counted twice."""
    return sum(map(text.count, (b"[", b"{", b",", b":")))


def parse_json(text: str | bytes) -> Any:
    """Read JSON that a server sent.

    Raises:
        ProtocolError: it is none, or exceeds the limits.
    """
    try:
        return read_json(text)
    except ValueError as error:
        reason = str(error)
    raise ProtocolError(f"expected JSON, got {text[:80]!r}{'…' if len(text) > 80 else ''} ({reason})")


def encode_json(payload: Any) -> bytes:
    """Write JSON for the wire.

    Raises:
        ValueError: it holds NaN, an infinity, half a surrogate pair, or more than the limits allow.
        TypeError: the value cannot be represented as JSON.
    """
    try:
        text = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        too_deep(LIMITS)
    if text.count("[") + text.count("{") > LIMITS.max_depth and is_deeper(payload, LIMITS.max_depth):
        too_deep(LIMITS)
    return text.encode()


def is_deeper(value: Any, depth: int) -> bool:
    """Whether arrays and objects are nested deeper than ``depth``."""
    level = [value]
    for _ in range(depth):
        level = [child for parent in level for child in _containers_in(parent)]
        if not level:
            return False
    return True


def too_deep(limits: JSONLimits) -> NoReturn:
    """Refuse what is nested too deeply."""
    raise ValueError(f"nested deeper than {limits.max_depth}") from None


def _containers_in(value: Any) -> list[Any]:
    if isinstance(value, dict):
        children = list(cast("dict[str, Any]", value).values())
    elif isinstance(value, list | tuple):
        children = list(cast("list[Any]", value))
    else:
        return []
    return [child for child in children if isinstance(child, dict | list | tuple)]


def _decoder(limits: JSONLimits) -> json.JSONDecoder:
    return _DECODER if limits.max_digits == LIMITS.max_digits else _make_decoder(limits.max_digits)


def _make_decoder(max_digits: int) -> json.JSONDecoder:
    def integer(digits: str) -> int:
        if len(digits) > max_digits:
            raise ValueError(f"an integer of {len(digits):,} digits")
        return int(digits)

    return json.JSONDecoder(parse_int=integer)


_DECODER = _make_decoder(LIMITS.max_digits)


def _without_surrogates(value: Any) -> Any:
    written = json.dumps(value, ensure_ascii=False)
    return json.loads(_LONE_SURROGATE.sub("\ufffd", written)) if _LONE_SURROGATE.search(written) else value
