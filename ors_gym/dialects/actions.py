"""What environments take as an action: a call, the same as a mapping or an object, or the text that a model wrote."""

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
"""What environments take: a call, the same as a mapping, or the text a model wrote."""


def check_action(action: Action) -> None:
    """Raise TypeError for what is no action at all, which is the caller's mistake and not the model's."""
    if not isinstance(action, ToolCall | Mapping | str) and not hasattr(action, "tool_calls"):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"an action is a ToolCall, a mapping with name and input, or text, not {type(action).__name__}")
    if isinstance(action, ToolCall) and not (isinstance(action.name, str) and isinstance(action.input, Mapping)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a ToolCall has a str and a mapping, got {action!r}")


def read_action(
    action: Action, dialect: Dialect, tools: Iterable[ToolSpec] | None = None, *, takes_plain_text: bool = False
) -> Reply:
    """Read an environment's action: a call, a mapping, or text, which ``dialect`` reads.

    A mapping is one call, or an assistant's message of chat completions with its ``tool_calls``, which may also be a
    client library's object. Plain text is a failure with the reason ``no_tool_call`` unless the environment takes it,
    which is what a terminal tool is for. Never raises for what a model could have written; other types are a TypeError.
    """
    check_action(action)
    if isinstance(action, ToolCall):
        return Reply(tool_calls=(action,))
    reply = dialect.parse(action, tools=tools) if isinstance(action, str) else _read_message(action)
    if reply.tool_calls or reply.error is not None or takes_plain_text:
        return reply
    error = "No tool was called: the message holds no tool call, and this environment takes no plain answer."
    return replace(reply, error=error, reason="no_tool_call")


def _read_message(action: Any) -> Reply:
    """A call, or a message with its calls; as a mapping, or as an object with the same fields."""
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
