"""Scenes as images."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

from ors_gym.types import ImageBlock
from PIL import Image, ImageDraw

from tasks import COLOURS, SIZE, Thing

BACKGROUND = (245, 242, 235)


def overview(things: Iterable[Thing]) -> ImageBlock:
    """The whole scene, small: colors are recognizable, shapes hardly."""
    return _picture(things, SIZE, 8)


def close_up(things: Iterable[Thing], row: int, column: int) -> ImageBlock:
    """One cell, large."""
    return _picture([Thing(0, 0, it.shape, it.colour) for it in things if (it.row, it.column) == (row, column)], 1, 96)


def _picture(things: Iterable[Thing], cells: int, cell: int) -> ImageBlock:
    image = Image.new("RGB", (cells * cell, cells * cell), BACKGROUND)
    draw = ImageDraw.Draw(image)
    edge = cell // 6
    for thing in things:
        left, top = thing.column * cell + edge, thing.row * cell + edge
        right, bottom = left + cell - 2 * edge - 1, top + cell - 2 * edge - 1
        colour = COLOURS[thing.colour]
        if thing.shape == "circle":
            draw.ellipse((left, top, right, bottom), fill=colour)
        elif thing.shape == "square":
            draw.rectangle((left, top, right, bottom), fill=colour)
        else:
            draw.polygon(((left, bottom), (right, bottom), ((left + right) // 2, top)), fill=colour)
    file = io.BytesIO()
    image.save(file, "PNG")
    return ImageBlock(base64.b64encode(file.getvalue()).decode(), "image/png")
