"""Calling a policy: synchronous or asynchronous, with any accepted form of answer."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from typing import Any, cast

from ors_gym.dialects import DIALECTS
from ors_gym.dialects.actions import read_action
from ors_gym.policies.policy import Policy, Turn
from ors_gym.trajectory import Reply
from ors_gym.types import ToolCall

__all__ = ["ask", "reply_of"]


async def ask(policy: Policy, turn: Turn) -> Reply:
    """Call a policy and return its reply.

    ``act`` may be a plain function: it then runs on a thread, so that a blocking call delays no other episode. Like a
    coroutine it is called for many episodes concurrently. For its return value see :func:`reply_of`.

    Raises:
        TypeError: the policy returned another type.
    """
    act: Any = policy.act
    if inspect.iscoroutinefunction(act) or inspect.iscoroutinefunction(getattr(act, "__call__", None)):  # noqa: B004
        answer = await act(turn)
    else:
        answer = await asyncio.to_thread(act, turn)
        if inspect.isawaitable(answer):  # a function that returns a coroutine
            answer = await answer
    return answer if isinstance(answer, Reply) else reply_of(answer, f"{type(policy).__name__}.act")


def reply_of(answer: object, whose: str = "the policy") -> Reply:
    """Convert a policy's answer to a reply.

    Accepts a call, a list of calls, a text, and an assistant message of Chat Completions (a mapping, or a client
    library's object).

    Raises:
        TypeError: the answer is none of these; ``whose`` names its source.
    """
    if isinstance(answer, Reply):
        return answer
    calls: list[Any] = list(cast("Any", answer)) if isinstance(answer, list | tuple) else []
    if calls and all(isinstance(each, ToolCall) for each in calls):
        return Reply(tool_calls=tuple(calls))
    if isinstance(answer, ToolCall | str | Mapping) or hasattr(cast("Any", answer), "tool_calls"):
        return read_action(cast("Any", answer), DIALECTS["plain"], takes_plain_text=True)
    raise TypeError(
        f"{whose} returned {_described(answer)}. Return a Reply, a ToolCall or a list of them, a text, or an "
        "assistant's message of chat completions"
    )


def _described(answer: Any) -> str:
    if answer is None:
        return "None (is there a return statement?)"
    if hasattr(answer, "choices"):
        return f"a whole {type(answer).__name__}; its message is answer.choices[0].message"
    return f"an object of type {type(answer).__name__}"
