"""JSON values assembled from the deltas of a stream in linear time. No I/O."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any, cast

from ors_gym.errors import ProtocolError
from ors_gym.types.shapes import JSONObject

__all__ = ["Growing", "check_count", "joined_parts"]

MAX_PARTS = 250_000
"""Maximum number of parts of an answer that are kept apart: more than any model writes tokens in one message."""

GROWING = frozenset({"text", "summary"})
"""Fields of an item that arrive in deltas; its other fields arrive once."""


def check_count(parts: Sized) -> None:
    """Raise ProtocolError if an answer has more than ``MAX_PARTS`` of these."""
    if len(parts) > MAX_PARTS:
        raise ProtocolError(f"an answer of more than {MAX_PARTS:,} parts")


class Growing:
    """A value in progress: text is appended, objects and lists are merged, other values are replaced.

    Items of a list belong together if they have the same ``index`` and ``type``, as in OpenRouter's
    ``reasoning_details``; an item without an index is always new.

    >>> value = Growing()
    >>> value.add([{"index": 0, "text": "h"}])
    >>> value.add([{"index": 0, "text": "m", "signature": "s"}])
    >>> value.whole()
    [{'index': 0, 'text': 'hm', 'signature': 's'}]
    """

    __slots__ = ("_fields", "_grows", "_items", "_last", "_texts")

    def __init__(self, *, grows: bool = True) -> None:
        self._grows = grows
        self._texts: list[str] = []
        self._fields: dict[str, Growing] = {}
        self._items: dict[object, Growing] = {}
        self._last: Any = None

    def add(self, piece: Any) -> None:
        """Add one more delta."""
        self._last = piece
        if isinstance(piece, str):
            self._texts.append(piece)
        elif isinstance(piece, Mapping):
            for name, value in cast("JSONObject", piece).items():
                field = self._fields.setdefault(name, Growing(grows=name in GROWING))
                if value is not None:
                    field.add(value)
        elif isinstance(piece, list):
            items: list[Any] = piece  # pyright: ignore[reportUnknownVariableType]
            for item in items:
                self._items.setdefault(_place(item), Growing(grows=False)).add(item)
            check_count(self._items)

    def whole(self) -> Any:
        """The value so far."""
        if isinstance(self._last, str):
            return "".join(self._texts) if self._grows else self._last
        if isinstance(self._last, Mapping):
            return {name: field.whole() for name, field in self._fields.items()}
        return [item.whole() for item in self._items.values()] if isinstance(self._last, list) else self._last


def _place(item: Any) -> object:
    if not isinstance(item, Mapping) or "index" not in item:
        return object()
    fields = cast("JSONObject", item)
    return str(fields["index"]), str(fields.get("type"))


def joined_parts(pieces: Iterable[Any]) -> list[JSONObject]:
    """The parts of a content that arrives as text deltas and parts; adjacent ones of the same kind are joined."""

    def kind(part: JSONObject) -> object:
        return part["type"] if part.get("type") in ("text", "thinking") else object()

    def joined() -> Iterator[JSONObject]:
        parts = ({"type": "text", "text": piece} if isinstance(piece, str) else piece for piece in pieces)
        for of_kind, adjacent in itertools.groupby(parts, kind):
            group = list(adjacent)
            whole = {name: value for part in group for name, value in part.items()}
            if of_kind == "text":
                whole["text"] = "".join(str(part.get("text") or "") for part in group)
            elif of_kind == "thinking":
                whole["thinking"] = joined_parts(inner for part in group for inner in _listed(part.get("thinking")))
            yield whole

    return list(joined())


def _listed(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value  # pyright: ignore[reportUnknownVariableType]
    return [value] if value else []
