"""Reading one call from a mapping or an object, with any of the usual field names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from ors_gym.dialects.scanning import UnreadableCallError, decode_json, excerpt
from ors_gym.types import ToolCall

__all__ = ["tool_call", "tool_calls"]

ARGUMENTS = ("arguments", "parameters", "input")
OTHER_FIELDS = frozenset({"name", "type", "id", "index", *ARGUMENTS})
"""Fields of a call without arguments; any other field could be arguments in the wrong place."""


def tool_call(value: Any) -> ToolCall:
    """Read one call from a mapping or an object, with any of the usual field names.

    Accepts ``{"name", "input"}``, ``{"name", "arguments"}``, ``{"name", "parameters"}``, or an OpenAI tool call with
    these under ``function``, as a mapping or as the client library's object. Anything else raises a ValueError, whose
    message is shown to the model.

    >>> tool_call({"type": "function", "function": {"name": "guess", "arguments": '{"word": "crane"}'}})
    ToolCall(name='guess', input={'word': 'crane'})
    """
    if isinstance(value, ToolCall):
        return value
    call = _fields(value)
    call_id = str(call.get("id") or "")
    if call.get("function") is not None and "name" not in call:
        call = _fields(call["function"])
    name = call.get("name")
    if not isinstance(name, str) or not name:
        raise UnreadableCallError("invalid_call", f'the call has no "name" string: {excerpt(repr(value))}')
    given = [word for word in ARGUMENTS if word in call]
    if len(given) > 1:
        raise UnreadableCallError("invalid_call", f"the call of {excerpt(name)!r} has {' and '.join(given)}")
    if not given and not call.keys() <= OTHER_FIELDS:
        unknown = ", ".join(repr(excerpt(str(key))) for key in call if key not in OTHER_FIELDS)
        raise UnreadableCallError("invalid_call", f'the call of {excerpt(name)!r} has {unknown}, but no "arguments"')
    arguments = call[given[0]] if given else None
    if isinstance(arguments, str):
        if not arguments.strip():  # OpenAI's format for no arguments
            return ToolCall(name, {}, call_id)
        arguments, _ = decode_json(arguments, whole=True)
    if arguments is None:
        return ToolCall(name, {}, call_id)
    if not isinstance(arguments, Mapping):
        why = f"the arguments of {excerpt(name)!r} must be a JSON object, not {type(arguments).__name__}"
        raise UnreadableCallError("invalid_call", why)
    return ToolCall(name, dict(cast("Mapping[str, Any]", arguments)), call_id)


def tool_calls(value: Any) -> list[ToolCall]:
    """Read one call, or an array of them."""
    values: list[Any] = value if isinstance(value, list) else [value]  # pyright: ignore[reportUnknownVariableType]
    return [tool_call(one) for one in values]


def _fields(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return cast("Mapping[str, Any]", value)
    words = ("id", "name", *ARGUMENTS, "function")
    fields = {word: getattr(value, word) for word in words if hasattr(value, word)}
    if not fields:
        raise UnreadableCallError("invalid_call", f"a call must be a JSON object, not {type(value).__name__}")
    return fields
