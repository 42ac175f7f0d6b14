"""Literals of Python, JSON and Gemma: one reader, from left to right, with bounded depth."""

from __future__ import annotations

import re
from typing import Any, ClassVar, NoReturn

from ors_gym.dialects.scanning import (
    MAX_DEPTH,
    UnreadableCallError,
    decode_number,
    excerpt,
    skip_space,
)
from ors_gym.dialects.values import LITERALS

__all__ = ["Literals"]

# The body of a quoted string, and its closing quote. Possessive quantifiers prevent backtracking.
_BODIES = {quote: re.compile(rf"((?:[^{quote}\\]++|\\.)*+){quote}", re.DOTALL) for quote in "'\""}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "\\": "\\", "'": "'", '"': '"', "/": "/", "\n": ""}
_WORD = re.compile(r"[A-Za-z_]++")
_WORDS: dict[str, bool | None] = LITERALS | {"true": True, "false": False, "null": None}


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] in "xuU" and len(code) > 1:
        number = int(code[1:], 16)
        if number > 0x10FFFF:
            raise UnreadableCallError("invalid_call", f"{match[0]} is not a character")
        return chr(number)
    return _ESCAPED.get(code, match[0])


class Literals:
    """Reads the value at a position: strings in either quotes, numbers, ``true`` and ``True``, containers."""

    quotes: ClassVar[str] = "'\""

    def __init__(self, text: str) -> None:
        self.text = text

    def value(self, position: int, depth: int = 0) -> tuple[Any, int]:
        """The value at ``position``, and its end."""
        if depth > MAX_DEPTH:
            raise UnreadableCallError("too_large", f"the arguments are nested more than {MAX_DEPTH} deep")
        position = skip_space(self.text, position)
        string = self.string(position)
        if string is not None:
            return string
        if self.text.startswith("{", position):
            return self.fields(position + 1, depth + 1)
        if self.text.startswith("[", position):
            return self.items(position + 1, depth + 1)
        number = decode_number(self.text, position)
        if number is not None:
            return number
        word = _WORD.match(self.text, position)
        if word is None or word[0] not in _WORDS:
            self.fail(position, "expected a value")
        return _WORDS[word[0]], word.end()

    def string(self, position: int) -> tuple[str, int] | None:
        """The string at ``position``, and its end; None if there is none."""
        quote = self.text[position : position + 1]
        if not quote or quote not in self.quotes:
            return None
        body = _BODIES[quote].match(self.text, position + 1)
        if body is None:
            raise UnreadableCallError("unfinished_call", f"the string {excerpt(self.text, position)} is not closed")
        string = body[1]
        if "\\" in string:
            string = _ESCAPE.sub(_unescaped, string)
            if not string.isascii():  # JSON escapes a surrogate pair as two units, which form one character
                string = string.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return string, body.end()

    def key(self, position: int) -> tuple[str, int]:
        """The key at ``position``, and its end."""
        string = self.string(position)
        if string is None:
            self.fail(position, "expected a key")
        return string

    def fields(self, position: int, depth: int = 1) -> tuple[dict[str, Any], int]:
        """The object whose ``{`` precedes ``position``, and its end."""
        fields: dict[str, Any] = {}
        position = skip_space(self.text, position)
        while not self.text.startswith("}", position):
            key, position = self.key(position)
            if key in fields:
                raise UnreadableCallError("invalid_call", f"{excerpt(key)!r} is given twice")
            position = skip_space(self.text, position)
            if not self.text.startswith(":", position):
                self.fail(position, "expected a colon after a key")
            fields[key], position = self.value(position + 1, depth)
            position = self._next(position, "}")
        return fields, position + 1

    def items(self, position: int, depth: int = 1) -> tuple[list[Any], int]:
        """The array whose ``[`` precedes ``position``, and its end."""
        items: list[Any] = []
        position = skip_space(self.text, position)
        while not self.text.startswith("]", position):
            item, position = self.value(position, depth)
            items.append(item)
            position = self._next(position, "]")
        return items, position + 1

    def _next(self, position: int, closing: str) -> int:
        """The position of the next item, or of the closing bracket."""
        position = skip_space(self.text, position)
        if self.text.startswith(",", position):
            return skip_space(self.text, position + 1)
        if not self.text.startswith(closing, position):
            self.fail(position, f"expected a comma or {closing}")
        return position

    def fail(self, position: int, what: str) -> NoReturn:
        """Raise the error ``what`` at ``position``."""
        if position >= len(self.text):
            raise UnreadableCallError("unfinished_call", "the message ends within a call")
        raise UnreadableCallError("invalid_call", f"{what} at {excerpt(self.text, position)!r}")
