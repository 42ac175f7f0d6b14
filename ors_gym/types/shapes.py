"""Readers of JSON by its shape: missing fields and wrong types raise a ProtocolError."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, cast

from ors_gym.errors import ProtocolError

__all__ = [
    "JSONObject",
    "flag",
    "mapping",
    "object_or_none",
    "required",
    "reward_or_none",
    "sequence",
    "shown",
    "string",
    "text_or_none",
]

JSONObject: TypeAlias = Mapping[str, Any]

MAX_SHOWN = 200
"""Maximum characters of a server's value in an error or record."""


def mapping(wire: Any, record: str) -> JSONObject:
    """The JSON object ``wire``; ``record`` names what is being read."""
    if not isinstance(wire, Mapping):
        raise ProtocolError(f"expected a JSON object for {record}, got {type(wire).__name__}")
    return cast(JSONObject, wire)


def required(wire: Any, key: str, record: str) -> Any:
    """The value of ``key``; ``record`` names what is being read."""
    fields = mapping(wire, record)
    try:
        return fields[key]
    except KeyError:
        raise ProtocolError(f"{record} has no {key!r}; it has {shown(sorted(map(str, fields)))}") from None


def string(wire: Any, key: str, record: str) -> str:
    """The text under ``key``."""
    value = required(wire, key, record)
    if not isinstance(value, str):
        raise ProtocolError(f"{key!r} of {record} must be a string, got {type(value).__name__}")
    return value


def text_or_none(value: Any) -> str | None:
    """Optional text; a value that is not a string is formatted as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)[:MAX_SHOWN]


def object_or_none(value: Any) -> JSONObject | None:
    """An optional JSON object; another value is kept as its ``value``."""
    if value is None or isinstance(value, Mapping):
        return cast("JSONObject | None", value)
    return {"value": value}


def flag(wire: JSONObject, key: str, record: str) -> bool:
    """The boolean under ``key``, False where there is none. ``"false"`` is neither."""
    value = wire.get(key)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise ProtocolError(f"{key!r} of {record} must be true or false, got {shown(value)}")


def shown(value: Any) -> str:
    """The beginning of a value, for an error."""
    written = json.dumps(value, ensure_ascii=False, default=str)
    return written if len(written) <= MAX_SHOWN else f"{written[:MAX_SHOWN]}…"


def sequence(wire: Any, record: str) -> Sequence[Any]:
    """The JSON array ``wire``; ``record`` names what is being read."""
    if not isinstance(wire, Sequence) or isinstance(wire, str | bytes):
        raise ProtocolError(f"expected a JSON array for {record}, got {type(wire).__name__}")
    items: Sequence[Any] = wire  # pyright: ignore[reportUnknownVariableType]
    return items


def reward_or_none(wire: Any) -> float | None:
    """A finite number, or None if absent."""
    if wire is None:
        return None
    with suppress(OverflowError):  # an integer of 400 digits
        if isinstance(wire, int | float) and not isinstance(wire, bool) and math.isfinite(reward := float(wire)):
            return reward
    raise ProtocolError(f"a reward must be a finite number or null, got {shown(wire)}")
