"""Rendering of episodes: the environment's own image, or its text as an image. Needs Pillow, imported on use."""

from __future__ import annotations

import base64
import importlib
import io
import textwrap
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from ors_gym.errors import ProtocolError
from ors_gym.types import ImageBlock

__all__ = ["RENDER_MODES", "image_frame", "render", "text_frame"]

RENDER_MODES = ["ansi", "rgb_array"]

WIDTH, HEIGHT = 640, 480
COLUMNS, LINE_PIXELS = 100, 14


def render(mode: str | None, transcript: list[str], image: ImageBlock | None) -> str | NDArray[np.uint8] | None:
    """The episode as text (``"ansi"``) or as an image (``"rgb_array"``); None without a mode."""
    match mode:
        case "ansi":
            return "\n".join(transcript)
        case "rgb_array":
            return text_frame("\n".join(transcript)) if image is None else image_frame(image)
        case _:
            return None


def image_frame(image: ImageBlock) -> NDArray[np.uint8]:
    """The pixels of an image, uint8 of shape ``(height, width, 3)``. Raises ProtocolError for invalid data."""
    pillow = _pillow("Image")
    try:
        opened = pillow.open(io.BytesIO(base64.b64decode(image.data)))
        return np.asarray(opened.convert("RGB"))
    except (OSError, ValueError) as error:
        raise ProtocolError(f"the environment's {image.mime_type} cannot be decoded: {error}") from None


def text_frame(text: str) -> NDArray[np.uint8]:
    """The end of a text drawn black on white, uint8 of shape ``(480, 640, 3)``."""
    picture = _pillow("Image").new("RGB", (WIDTH, HEIGHT), "white")
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, COLUMNS) or [""]]
    drawing = _pillow("ImageDraw").Draw(picture)
    for row, line in enumerate(lines[-(HEIGHT // LINE_PIXELS) :]):
        drawing.text((4, row * LINE_PIXELS), line, fill="black")
    return np.asarray(picture)


def _pillow(module: str) -> Any:
    try:
        return importlib.import_module(f"PIL.{module}")
    except ImportError:
        raise DependencyNotInstalled('render_mode="rgb_array" needs Pillow: pip install pillow') from None
