"""An environment as a model reads it, and the texts that were approved."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
from pathlib import Path

from ors_gym.spaces import ToolCallSpace
from ors_gym.types import TextBlock

__all__ = ["approved", "read_by_a_model"]

NUM_STEPS = 2
"""With what is seen first, three observations."""


def read_by_a_model(environment, *, index: int = 3) -> str:
    """All that a model gets of a task, in order: tools, prompt and observations; pictures by their format."""
    tools = environment.list_tools()
    parts = [
        f"{tool.name}: {tool.description}\n{json.dumps(tool.input_schema, indent=1, ensure_ascii=False)}"
        for tool in tools
    ]
    episode = environment(environment.get_task("train", index))
    episode.setup()
    try:
        prompt = episode.get_prompt()
        shown = [[TextBlock(prompt)] if isinstance(prompt, str) else prompt]
        space = ToolCallSpace(tools, seed=5)
        for _ in range(NUM_STEPS):
            call = space.sample()
            given = episode.call_tool(call.name, call.input)
            output = asyncio.run(_awaited(given)) if inspect.isawaitable(given) else given
            parts_of_call = json.dumps(dict(call.input), ensure_ascii=False)
            result = f"reward {output.reward:.6g}" if output.ok else output.error
            shown.append([TextBlock(f"> {parts_of_call}\n{result}"), *output.blocks])
    finally:
        episode.teardown()
    for blocks in shown:
        parts.append("\n".join(each.text if isinstance(each, TextBlock) else f"({each.mime_type})" for each in blocks))
    return re.sub(r"(?m)[ \t]+$", "", "\n----------\n".join(parts)) + "\n"


async def _awaited(output):
    return await output


def approved(file: Path, text: str) -> str:
    """The approved text; ``ORS_APPROVE=1`` approves this one."""
    if os.environ.get("ORS_APPROVE"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return file.read_text(encoding="utf-8")
