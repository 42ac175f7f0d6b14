"""An environment's observations as text and images for a model.

The form depends on the value itself, so that observations outside of the declared space are shown as they are. Images
(large byte arrays with one to four channels) become PNGs, a few frames stacked on the first axis one image, arrays of
characters their text, and everything else numbers.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import GraphInstance
from numpy.typing import NDArray

from ors_gym.types import Block, ImageBlock, TextBlock

__all__ = ["as_json", "characters", "image_block", "observation_blocks", "plain_text"]

_MOST_FRAMES = 8
_SHORTEST_TEXT = 16
"""Minimum bytes of a text: a shorter array is as likely numbers."""
_MOST_NUMBERS = 5000
"""A larger array of numbers fills a conversation without telling a model anything."""
_MOST_ALIKE = 8
"""Rows one after another that are alike and written out; padding is often dozens of rows of zeros."""
_SMALLEST_PICTURE = 32
"""Minimum pixels of an image's shorter side; smaller arrays are grids of numbers, such as MiniGrid's 7 by 7 view."""


def observation_blocks(observation: Any, names: Sequence[str] | None = None, *, digits: int = 5) -> list[Block]:
    """One text block, unless the observation is only an image, followed by the images.

    Args:
        observation: An element of any Gymnasium space, or anything else with a text form.
        names: Names of the components of a list or tuple.
        digits: Number of significant digits of a fraction.
    """
    writer = _Writer(digits)
    text = writer.write(observation, names)
    images = [image_block(picture) for picture in writer.pictures]
    return [*images] if _is_picture(observation) or _are_frames(observation) else [TextBlock(text), *images]


def image_block(picture: NDArray[Any]) -> ImageBlock:
    """A byte image (height, width[, channels]) as a PNG."""
    from PIL import Image

    file = io.BytesIO()
    one_channel = picture.ndim == 3 and picture.shape[2] == 1
    Image.fromarray(np.ascontiguousarray(picture[:, :, 0] if one_channel else picture)).save(file, "PNG")
    return ImageBlock(base64.b64encode(file.getvalue()).decode(), "image/png")


_COLOURED = re.compile(r"\x1b\[([0-9;]*)m(.*?)\x1b\[0?m", re.DOTALL)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def plain_text(rendered: str) -> str:
    """Terminal text without control codes; text on a colored background is put in brackets.

    >>> plain_text("\N{ESCAPE}[41mS\N{ESCAPE}[0mFFF")
    '[S]FFF'
    """

    def marked(run: re.Match[str]) -> str:
        background = any(re.fullmatch("4[0-8]|10[0-7]", code) for code in run[1].split(";"))
        return f"[{run[2]}]" if background else run[2]

    lines = _CONTROL.sub("", _COLOURED.sub(marked, rendered)).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def as_json(value: Any) -> Any:
    """The value as JSON. Non-finite numbers become null, and objects of unknown kinds their text."""
    match value:
        case None | bool() | int() | str():
            return value
        case np.generic():
            return as_json(value.item())
        case float():
            return value if math.isfinite(value) else None
        case np.ndarray():
            return as_json(value.tolist())
        case Mapping():
            return {str(key): as_json(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [as_json(item) for item in value]
        case _:
            return str(value)


class _Writer:
    def __init__(self, digits: int) -> None:
        self._digits = digits
        self.pictures: list[NDArray[Any]] = []

    def write(self, value: Any, names: Sequence[str] | None = None) -> str:
        match value:
            case str():
                return value
            case bool() | np.bool_():
                return "true" if bool(value) else "false"
            case float() | np.floating():
                return f"{float(value) + 0.0:.{self._digits}g}"  # -0.0 is written as 0
            case np.ndarray():
                return self._array(value, names)
            case Mapping():
                return "\n".join(f"{key}: {self._nested(item)}" for key, item in value.items())
            case GraphInstance():
                parts = {"nodes": value.nodes, "edges": value.edges, "edge_links": value.edge_links}
                return self.write({name: part for name, part in parts.items() if part is not None})
            case list() | tuple():
                if names is not None and len(names) == len(value):
                    return ", ".join(f"{name}: {self.write(item)}" for name, item in zip(names, value, strict=True))
                return f"[{', '.join(self.write(item) for item in value)}]"
            case _:
                return str(value)

    def _nested(self, value: Any) -> str:
        if isinstance(value, Mapping):
            parts: Mapping[Any, Any] = value
            if all(isinstance(part, bool | int | float | np.generic) for part in parts.values()):
                return ", ".join(f"{key}: {self.write(part)}" for key, part in parts.items())
        text = self.write(value)
        return text if "\n" not in text else "\n" + "\n".join(f"  {line}" for line in text.split("\n"))

    def _array(self, array: NDArray[Any], names: Sequence[str] | None) -> str:
        if _is_picture(array):
            self.pictures.append(array)
            return f"picture {len(self.pictures)}, {array.shape[1]} by {array.shape[0]} pixels"
        if _are_frames(array):
            self.pictures.append(np.concatenate(list(array), axis=1))
            return f"picture {len(self.pictures)}, {len(array)} frames side by side, the oldest on the left"
        if names is None and _holds_characters(array):
            return characters(array)
        return self._numbers(array, names)

    def _numbers(self, array: NDArray[Any], names: Sequence[str] | None) -> str:
        if array.size > _MOST_NUMBERS:
            shape = " by ".join(map(str, array.shape))
            return f"{shape} numbers from {self.write(array.min())} to {self.write(array.max())}, too many to write"
        if array.ndim == 2 and names is not None and len(names) == array.shape[1]:
            named = [f"row {number}: {self.write(list(row), names)}" for number, row in enumerate(array) if row.any()]
            return "\n".join(named) or "all zero"
        if array.ndim > 1:
            rows = ",\n".join(_without_repetition([self._numbers(row, None) for row in array]))
            return f"[{rows}]".replace("\n", "\n ")
        return self.write(list(array) if array.ndim else array[()], names)


def _without_repetition(rows: Sequence[str]) -> Iterator[str]:
    """Rows that are alike once, and how many more there are."""
    for row, group in itertools.groupby(rows):
        count = len(list(group))
        yield from [row] * min(count, _MOST_ALIKE)
        if count > _MOST_ALIKE:
            yield f"… {count - _MOST_ALIKE} more rows like the last"


def characters(array: NDArray[Any]) -> str:
    """The text of an array of character codes: rows as lines, without surrounding blank lines."""
    rows = array.reshape(-1, array.shape[-1]).astype(np.uint8)
    lines = [bytes(row).split(b"\0")[0].decode("latin-1").rstrip() for row in rows]
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join(itertools.dropwhile(lambda line: not line, lines))


def _holds_characters(array: NDArray[Any]) -> bool:
    """Whether the numbers are codes of printable characters, with spaces or zeros among them as in text."""
    if array.dtype != np.uint8 or array.ndim == 0 or array.size < _SHORTEST_TEXT:
        return False
    printable = (array == 0) | ((array >= 32) & (array < 127)) | (array >= 161)
    letters = (array >= 65) & (array < 127)
    filler = (array == 0) | (array == 32)
    return bool(printable.all() and letters.any() and filler.any() and not np.all(array >= 128))


def _are_frames(value: Any) -> bool:
    """Whether the value is a stack of one-channel images on the first axis, as from FrameStackObservation."""
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3:
        return False
    return len(value) <= _MOST_FRAMES and min(value.shape[1:]) >= _SMALLEST_PICTURE and value.shape[2] > 4


def _is_picture(value: Any) -> bool:
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8:
        return False
    channels = value.shape[2:] in ((), (1,), (3,), (4,))
    return value.ndim in (2, 3) and channels and min(value.shape[:2]) >= _SMALLEST_PICTURE
