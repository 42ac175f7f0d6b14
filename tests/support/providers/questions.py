"""Policies at the providers' doubles, and what they are asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ors_gym import ChatPolicy, Reply, TaskRef, ToolSpec, Turn
from ors_gym.trajectory import Exchange
from ors_gym.types import ImageBlock, Message, TextBlock, ToolList, ToolResultBlock
from tests.support.providers.anthropic import AnthropicDouble
from tests.support.providers.base import Double
from tests.support.providers.chat import ChatDouble
from tests.support.providers.google import GoogleDouble
from tests.support.providers.responses import ResponsesDouble

__all__ = ["APIS", "GO", "LOOK", "MAKERS", "SYSTEM", "TASK", "answered", "ask", "policy_of", "turn"]

TASK = TaskRef("counter", "train", 2)
APIS = ("openai", "responses", "anthropic", "google")
LOOK = ToolSpec("look", "Look.", {"type": "object", "properties": {"where": {"type": "string"}}})
SYSTEM = Message("system", (TextBlock("S"),))
GO = Message("user", (TextBlock("Go"),))


def policy_of(provider: str, double: Double, **options: Any) -> ChatPolicy:
    api = provider if provider in APIS else "openai"
    given = {"api": api, "api_key": double.key, "retry_seconds": 5.0, "max_tokens": 2048}
    return ChatPolicy(double.url, "gemini-3.1-pro" if api == "google" else "m", **(given | options))


def turn(*messages: Message, tools: tuple[ToolSpec, ...] = (LOOK,), **more: Any) -> Turn:
    return Turn("episode", TASK, messages or (GO,), ToolList(tools), **more)


async def ask(policy: ChatPolicy, *asked: Turn) -> list[Reply]:
    async with policy:
        return [await policy.act(each) for each in asked or (turn(),)]


MAKERS: dict[str, Callable[[], Double]] = {
    "responses": ResponsesDouble,
    "anthropic": AnthropicDouble,
    "google": GoogleDouble,
    "openai": lambda: ChatDouble(dialect="openai"),
    "deepseek": lambda: ChatDouble(dialect="deepseek"),
    "gemini": lambda: ChatDouble(dialect="gemini"),
    "openrouter": lambda: ChatDouble(dialect="openrouter"),
    "mistral": lambda: ChatDouble(dialect="mistral"),
}


def answered(reply: Reply) -> tuple[Message, ...]:
    """A conversation in which the first call of a reply gave a picture, and the others were refused."""
    said = Exchange(reply).said()
    first, *others = [call.id for call in said.tool_calls]
    results = [ToolResultBlock(first, (TextBlock("A picture:"), ImageBlock("AAAA", "image/png")))]
    results += [ToolResultBlock(call_id, (TextBlock("No such place."),), is_error=True) for call_id in others]
    return SYSTEM, GO, said, Message("user", tuple(results))
