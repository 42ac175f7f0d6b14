"""``[name(key=value), …]``: calls as Python writes them, read without evaluating anything.

Names and keys may hold what Python's may not (dots, dashes, blanks, keywords), so this is no Python parser.
"""

from __future__ import annotations

import re
from typing import Any

from ors_gym.dialects.literals import Literals
from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import UnreadableCallError, excerpt, skip_space
from ors_gym.dialects.values import allowed_types, schema_of_argument
from ors_gym.types import ToolCall

__all__ = ["python_calls", "raw_end"]

_WORD = re.compile(r"""[^'"()\[\]{},=<>]++""")
_SPACE = "[ \\t\\r\\n]*+"
_ARGUMENT, _CALL = f"{_WORD.pattern}=", rf"{_WORD.pattern}\("


def raw_end(mark: str) -> re.Pattern[str]:
    """The quote that ends a string in which nothing is escaped: an argument, a call or the end ``mark`` follows it."""
    end_of_call = rf"\){_SPACE}(?:,{_SPACE}{_CALL}|\]{_SPACE}{re.escape(mark)})"
    return re.compile(f"'(?={_SPACE}(?:{end_of_call}|,{_SPACE}{_ARGUMENT}))")


def python_calls(reading: Reading, position: int, raw_end: re.Pattern[str] | None = None) -> int:
    """Read the list of calls whose ``[`` stands at ``position``; returns where it ends.

    ``raw_end``: what ends a single-quoted string that is an argument itself, where nothing is escaped in those.
    """
    text, literals = reading.text, Literals(reading.text)
    if not text.startswith("[", position):
        literals.fail(position, "no list of calls begins")
    position = skip_space(text, position + 1)
    while not text.startswith("]", position):
        position = _call(reading, literals, position, raw_end)
        position = _next(literals, position, "]")
    return position + 1


def _call(reading: Reading, literals: Literals, position: int, raw_end: re.Pattern[str] | None) -> int:
    text = reading.text
    name, position = _word(literals, position, "(", "no call begins")
    arguments: dict[str, Any] = {}
    while not text.startswith(")", position):
        key, position = _word(literals, position, "=", "no argument by name begins")
        if key in arguments:
            raise UnreadableCallError("invalid_call", f"the argument {excerpt(key)!r} is given twice")
        quoted = text[position : position + 1] in ("'", '"')
        if raw_end is not None and text.startswith("'", position):
            end = raw_end.search(text, position + 1)
            if end is None:
                raise UnreadableCallError("unfinished_call", f"the string {excerpt(text, position)} does not end")
            arguments[key], position = text[position + 1 : end.start()], end.end()
        else:
            arguments[key], position = literals.value(position)
        if quoted:
            _check_string(reading, name, key)
        position = _next(literals, position, ")")
    reading.add(ToolCall(name, arguments))
    return position + 1


def _check_string(reading: Reading, name: str, key: str) -> None:
    """Refuse a string where the schema wants none: it may be the text of another argument that looks like one."""
    root = (reading.tools or {}).get(name)
    types = allowed_types(schema_of_argument(root, key), root)
    if "string" not in types:
        wanted = " or ".join(sorted(types))
        raise UnreadableCallError("invalid_call", f"{excerpt(key)!r} must be {wanted}, not a string")


def _word(literals: Literals, position: int, mark: str, otherwise: str) -> tuple[str, int]:
    """The name or key at ``position``, and what follows the ``mark`` after it."""
    text = literals.text
    word = _WORD.match(text, position)
    end = word.end() if word else position
    if word is None or not word[0].strip() or not text.startswith(mark, end):
        literals.fail(len(text) if end == len(text) else position, otherwise)
    return word[0].strip(), skip_space(text, end + 1)


def _next(literals: Literals, position: int, closing: str) -> int:
    position = skip_space(literals.text, position)
    if literals.text.startswith(",", position):
        return skip_space(literals.text, position + 1)
    if not literals.text.startswith(closing, position):
        literals.fail(position, f"neither a comma nor {closing} stands")
    return position
