"""Actions of environments: a call, the same as a mapping or an object, or text written by a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias, cast

from ors_gym.dialects.base import Dialect
from ors_gym.dialects.calls import tool_call
from ors_gym.trajectory import Reply
from ors_gym.types import ToolCall, ToolSpec

__all__ = ["Action", "check_action", "read_action"]

Action: TypeAlias = ToolCall | Mapping[str, Any] | str
"""An environment's action: a call, the same as a mapping, or text written by a model."""


def check_action(action: Action) -> None:
    """Raise TypeError for an object that is not an action: a mistake of the caller, not of the model."""
    if not isinstance(action, ToolCall | Mapping | str) and not hasattr(action, "tool_calls"):  # pyright: ignore[reportUnnecessaryIsInstance]
        kind = type(action).__name__
        raise TypeError(f"an action must be a ToolCall, a mapping with name and input, or text, not {kind}")
    if isinstance(action, ToolCall) and not (isinstance(action.name, str) and isinstance(action.input, Mapping)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a ToolCall needs a str and a mapping, got {action!r}")


def read_action(
    action: Action, dialect: Dialect, tools: Iterable[ToolSpec] | None = None, *, takes_plain_text: bool = False
) -> Reply:
    """Read an environment's action: a call, a mapping, or text, which ``dialect`` parses.

    A mapping is one call, or an assistant message of Chat Completions with its ``tool_calls``, which may also be a
    client library's object. Plain text is an error with the reason ``no_tool_call`` unless the environment accepts it,
    as one with a terminal tool does. Never raises for anything that a model can write; other types raise TypeError.
    """
    check_action(action)
    if isinstance(action, ToolCall):
        return Reply(tool_calls=(action,))
    reply = dialect.parse(action, tools=tools) if isinstance(action, str) else _read_message(action)
    if reply.tool_calls or reply.error is not None or takes_plain_text:
        return reply
    error = "No tool was called: the message contains no tool call, and this environment accepts no plain answer."
    return replace(reply, error=error, reason="no_tool_call")


def _read_message(action: Any) -> Reply:
    """Read a call, or a message with its calls, from a mapping or an object with the same fields."""
    fields = cast(
        "Mapping[str, Any]",
        action
        if isinstance(action, Mapping)
        else {
            "tool_calls": action.tool_calls,
            "content": getattr(action, "content", None),
        },
    )
    is_message = not fields.keys().isdisjoint(("role", "tool_calls"))
    content = fields.get("content") if is_message else None
    try:
        made = tuple(map(tool_call, fields.get("tool_calls") or [])) if is_message else (tool_call(fields),)
    except (ValueError, TypeError) as unreadable:
        reason = getattr(unreadable, "reason", "invalid_call")
        return Reply(error=f"No tool was called: {unreadable}.", reason=reason)
    return Reply(content if isinstance(content, str) else "", made)
