"""A policy at the chat server of the tests, and what it is asked."""

from __future__ import annotations

from ors_gym import (
    ChatPolicy,
    Reply,
    TaskRef,
    ToolSpec,
    Turn,
)
from ors_gym.types import (
    Message,
    TextBlock,
    ToolList,
)
from tests.support.chat_server import ChatServer

__all__ = ["ASK", "GUESS", "KEY", "TASK", "ask", "turn"]

TASK = TaskRef("counter", "train", 2)


ASK = (Message("user", (TextBlock("Count to 3."),)),)


GUESS = ToolSpec("guess", "Guess.", {"type": "object", "properties": {"word": {"enum": ["crane"]}}})


KEY = "sk-correct-horse"


def turn(messages=ASK, tools=(GUESS,), **more) -> Turn:
    return Turn("episode", TASK, tuple(messages), ToolList(tuple(tools)), **more)


async def ask(chat: ChatServer, asked: Turn | None = None, **options) -> Reply:
    async with ChatPolicy(chat.url, "m", **({"retry_seconds": 5.0} | options)) as policy:
        return await policy.act(asked or turn())
