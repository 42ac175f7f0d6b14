"""``[name(key=value), …]``: calls in Python syntax, read without evaluation.

Names and keys may contain characters that Python forbids (dots, dashes, spaces, keywords), so Python's parser does not
apply.
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
    """The quote that ends an unescaped string: it is followed by an argument, a call or the end ``mark``."""
    end_of_call = rf"\){_SPACE}(?:,{_SPACE}{_CALL}|\]{_SPACE}{re.escape(mark)})"
    return re.compile(f"'(?={_SPACE}(?:{end_of_call}|,{_SPACE}{_ARGUMENT}))")


def python_calls(reading: Reading, position: int, raw_end: re.Pattern[str] | None = None) -> int:
    """Read the list of calls whose ``[`` is at ``position``, and return its end.

    ``raw_end`` matches the end of a single-quoted argument, for dialects that do not escape these.
    """
    text, literals = reading.text, Literals(reading.text)
    if not text.startswith("[", position):
        literals.fail(position, "expected a list of calls")
    position = skip_space(text, position + 1)
    while not text.startswith("]", position):
        position = _call(reading, literals, position, raw_end)
        position = _next(literals, position, "]")
    return position + 1


def _call(reading: Reading, literals: Literals, position: int, raw_end: re.Pattern[str] | None) -> int:
    text = reading.text
    name, position = _word(literals, position, "(", "expected a call")
    arguments: dict[str, Any] = {}
    while not text.startswith(")", position):
        key, position = _word(literals, position, "=", "expected a keyword argument")
        if key in arguments:
            raise UnreadableCallError("invalid_call", f"the argument {excerpt(key)!r} is given twice")
        quoted = text[position : position + 1] in ("'", '"')
        if raw_end is not None and text.startswith("'", position):
            end = raw_end.search(text, position + 1)
            if end is None:
                raise UnreadableCallError("unfinished_call", f"the string {excerpt(text, position)} is not closed")
            arguments[key], position = text[position + 1 : end.start()], end.end()
        else:
            arguments[key], position = literals.value(position)
        if quoted:
            _check_string(reading, name, key)
        position = _next(literals, position, ")")
    reading.add(ToolCall(name, arguments))
    return position + 1


def _check_string(reading: Reading, name: str, key: str) -> None:
    """Refuse a string where the schema allows none: it may be the text of another argument that looks like one."""
    root = (reading.tools or {}).get(name)
    types = allowed_types(schema_of_argument(root, key), root)
    if "string" not in types:
        wanted = " or ".join(sorted(types))
        raise UnreadableCallError("invalid_call", f"{excerpt(key)!r} must be {wanted}, not a string")


def _word(literals: Literals, position: int, mark: str, otherwise: str) -> tuple[str, int]:
    """The name or key at ``position``, and the position after the ``mark`` that follows it."""
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
        literals.fail(position, f"expected a comma or {closing}")
    return position
