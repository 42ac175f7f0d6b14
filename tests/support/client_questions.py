"""A question to an ORS server, and an episode on it, by the asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ors_gym.client.client import ORSClient
from ors_gym.types import TextBlock

__all__ = ["ask", "one_episode"]


def ask(url: str, question: Callable[[ORSClient], Any], **options: Any) -> Any:
    async def conversation() -> Any:
        async with ORSClient(url, **options) as client:
            return await question(client)

    return asyncio.run(conversation())


async def one_episode(client: ORSClient) -> str:
    async with client.session("counter", split="train", index=2) as session:
        assert await session.get_prompt() == (TextBlock("Count to 3."),)
        return (await session.call_tool("add", {"amount": 3})).text
