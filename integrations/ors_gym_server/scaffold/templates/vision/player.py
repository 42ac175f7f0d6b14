"""The policy of ``rollout.py``: it solves the tasks from the information that a model has."""

from __future__ import annotations

import base64
import io
import re

from ors_gym import Reply, ToolCall, Turn
from ors_gym.types import ImageBlock, ToolResultBlock
from PIL import Image

from tasks import COLOURS, SIZE


class Player:
    """Zooms in on every cell, and counts by a few pixels of each."""

    async def act(self, turn: Turn) -> Reply:
        """Answer one turn."""
        if turn.number == 0:
            cells = [{"row": row + 1, "column": column + 1} for row in range(SIZE) for column in range(SIZE)]
            return Reply(tool_calls=tuple(ToolCall("zoom", cell) for cell in cells))
        question = re.search(r"How many (\w+) (\w+)s are there", turn.messages[0].text)
        assert question is not None
        results = [block for message in turn.messages for block in message.blocks if isinstance(block, ToolResultBlock)]
        images = [block for result in results for block in result.blocks if isinstance(block, ImageBlock)]
        count = sum(_seen(image) == question.groups() for image in images)
        return Reply(tool_calls=(ToolCall("answer", {"count": count}),))


def _seen(block: ImageBlock) -> tuple[str, str] | None:
    """The color and shape in an image of one cell; None if it is empty."""
    image = Image.open(io.BytesIO(base64.b64decode(block.data))).convert("RGB")
    middle, low, high = image.width // 2, image.width // 5, image.width - image.width // 5

    def colour_at(x: int, y: int) -> str | None:
        return next((name for name, rgb in COLOURS.items() if image.getpixel((x, y)) == rgb), None)

    colour = colour_at(middle, middle)
    if colour is None:
        return None
    return colour, "square" if colour_at(low, low) else "triangle" if colour_at(low, high) else "circle"
