"""Strings and numbers drawn as a JSON Schema's keywords ask."""

from __future__ import annotations

import base64
import importlib
import ipaddress
import json
import math
import random
import re
import string
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

__all__ = ["NoDrawError", "draw_number", "draw_pattern", "draw_string"]

_ATTEMPTS = 50
_LETTERS = string.ascii_letters + string.digits


class NoDrawError(Exception):
    """Nothing was found for a schema, or a branch of one; another branch may have something."""


def draw_number(node: Mapping[str, Any], rng: random.Random) -> int | float:
    """Draw for ``minimum``, ``maximum``, their exclusive forms and ``multipleOf``; an open side is kept near."""
    integer = node["type"] == "integer"
    above, below = node.get("exclusiveMinimum", -math.inf), node.get("exclusiveMaximum", math.inf)
    low, high = max(node.get("minimum", -math.inf), above), min(node.get("maximum", math.inf), below)
    span = rng.choice((10, 100, 1000))
    if math.isinf(low):
        low = (high if math.isfinite(high) else span) - 2 * span
    if math.isinf(high):
        high = low + 2 * span
    step = node.get("multipleOf", 1 if integer else None)
    for _ in range(_ATTEMPTS):
        value = _between(low, high, rng) if step is None else _multiple(step, low, high, rng)
        if integer and value == int(value):
            value = int(value)
        if low <= value <= high and above < value < below and (not integer or isinstance(value, int)):
            return value
    raise NoDrawError


def _between(low: float, high: float, rng: random.Random) -> float:
    value = low + (high - low) * rng.random()
    return round(value, 2) if low < round(value, 2) < high else value


def _multiple(step: float, low: float, high: float, rng: random.Random) -> float:
    """A multiple of ``step``, exact: with integers alone, or by decimals where the step is a fraction."""
    exact_step, exact_low, exact_high = (Fraction(str(number)) for number in (step, low, high))
    first, last = math.ceil(exact_low / exact_step), math.floor(exact_high / exact_step)
    if first > last:
        raise NoDrawError
    value = rng.randint(first, last) * exact_step
    return int(value) if value.denominator == 1 and isinstance(step, int) else float(value)


def draw_string(node: Mapping[str, Any], rng: random.Random) -> str:
    """Draw for ``pattern``, ``format``, ``contentMediaType`` and the lengths."""
    smallest = int(node.get("minLength", 0))
    largest = int(node.get("maxLength", max(2 * smallest, 12)))
    for _ in range(_ATTEMPTS):
        if "pattern" in node:
            text = draw_pattern(node["pattern"], rng)
            if len(text) < smallest:  # an open pattern may be followed by anything
                text += _word(rng, smallest - len(text))
            fits = re.search(node["pattern"], text) is not None
        elif node.get("format") in _FORMATS:
            text, fits = _FORMATS[node["format"]](rng), True
        elif node.get("contentMediaType") == "application/json":
            text, fits = json.dumps({_word(rng, 3): rng.randint(0, 9)}), True
        else:
            text, fits = _word(rng, rng.randint(smallest, max(smallest, largest))), True
        if fits and smallest <= len(text) and ("maxLength" not in node or len(text) <= largest):
            return text
    raise NoDrawError


def _word(rng: random.Random, length: int) -> str:
    return "".join(rng.choice(_LETTERS) for _ in range(length))


def _moment(rng: random.Random) -> datetime:
    return datetime.fromtimestamp(rng.randrange(2**31), UTC)


def _uri(rng: random.Random) -> str:
    return f"https://example.com/{_word(rng, 5)}"


_FORMATS: dict[str, Callable[[random.Random], str]] = {
    "date": lambda rng: _moment(rng).date().isoformat(),
    "time": lambda rng: _moment(rng).time().isoformat() + "Z",
    "date-time": lambda rng: _moment(rng).isoformat().replace("+00:00", "Z"),
    "duration": lambda rng: f"P{rng.randint(0, 30)}DT{rng.randint(0, 23)}H{rng.randint(0, 59)}M",
    "uuid": lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
    "uuid4": lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
    "email": lambda rng: f"{_word(rng, 6)}@example.com",
    "idn-email": lambda rng: f"{_word(rng, 6)}@example.com",
    "hostname": lambda rng: f"{_word(rng, 6).lower()}.example.com",
    "ipv4": lambda rng: str(ipaddress.IPv4Address(rng.getrandbits(32))),
    "ipv6": lambda rng: str(ipaddress.IPv6Address(rng.getrandbits(128))),
    "ipvanyaddress": lambda rng: str(ipaddress.IPv4Address(rng.getrandbits(32))),
    "uri": _uri,
    "iri": _uri,
    "uri-reference": _uri,
    "json-pointer": lambda rng: f"/{_word(rng, 4)}/{rng.randint(0, 9)}",
    "regex": lambda rng: f"^{_word(rng, 3)}.*$",
    "base64": lambda rng: base64.b64encode(rng.randbytes(6)).decode(),
    "base64url": lambda rng: base64.urlsafe_b64encode(rng.randbytes(6)).decode(),
    "byte": lambda rng: base64.b64encode(rng.randbytes(6)).decode(),
}

# ---- regular expressions, read with the parser that `re` itself uses

_parser = importlib.import_module("re._parser")
_PRINTABLE = _LETTERS + string.punctuation + " "
_LONGEST_REPEAT = 5
_CATEGORIES: dict[str, Callable[[str], bool]] = {
    "CATEGORY_DIGIT": str.isdigit,
    "CATEGORY_NOT_DIGIT": lambda character: not character.isdigit(),
    "CATEGORY_SPACE": str.isspace,
    "CATEGORY_NOT_SPACE": lambda character: not character.isspace(),
    "CATEGORY_WORD": lambda character: character.isalnum() or character == "_",
    "CATEGORY_NOT_WORD": lambda character: not (character.isalnum() or character == "_"),
}


def draw_pattern(pattern: str, rng: random.Random) -> str:
    """Draw a string that the pattern is found in; look-arounds do not direct the draw, so check it.

    JSON Schema's dialect has a little more than `re` understands: for that nothing is drawn.
    """
    try:
        parsed = _parser.parse(pattern)
    except re.error:
        raise NoDrawError from None
    return _draw_sequence(parsed, rng, {})


def _draw_sequence(parsed: Sequence[Any], rng: random.Random, groups: dict[int, str]) -> str:
    return "".join(_draw_one(str(operation), argument, rng, groups) for operation, argument in parsed)


def _draw_one(operation: str, argument: Any, rng: random.Random, groups: dict[int, str]) -> str:
    match operation:
        case "LITERAL":
            return chr(argument)
        case "NOT_LITERAL":
            return rng.choice(_PRINTABLE.replace(chr(argument), ""))
        case "ANY":
            return rng.choice(_LETTERS)
        case "IN":
            return _draw_member(argument, rng)
        case "BRANCH":
            return _draw_sequence(rng.choice(argument[1]), rng, groups)
        case "SUBPATTERN":
            text = _draw_sequence(argument[3], rng, groups)
            groups[argument[0]] = text
            return text
        case "ATOMIC_GROUP":
            return _draw_sequence(argument, rng, groups)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            fewest, most, repeated = argument
            times = rng.randint(fewest, min(int(most), max(_LONGEST_REPEAT, fewest + _LONGEST_REPEAT)))
            return "".join(_draw_sequence(repeated, rng, groups) for _ in range(times))
        case "GROUPREF":
            return groups.get(argument, "")
        case "GROUPREF_EXISTS":
            chosen = argument[1] if argument[0] in groups else argument[2]
            return _draw_sequence(chosen or (), rng, groups)
        case _:  # AT, ASSERT, ASSERT_NOT: they match a place, not a character
            return ""


def _draw_member(members: Sequence[Any], rng: random.Random) -> str:
    """Draw one character of a set such as ``[a-z_]`` or ``[^"]``."""
    if str(members[0][0]) == "NEGATE":
        allowed = [c for c in _PRINTABLE if not any(_is_member(c, str(kind), what) for kind, what in members[1:])]
        return rng.choice(allowed) if allowed else "\N{REPLACEMENT CHARACTER}"
    kind, what = rng.choice(members)
    match str(kind):
        case "LITERAL":
            return chr(what)
        case "RANGE":
            return chr(rng.randint(*what))
        case _:
            return rng.choice([c for c in _PRINTABLE + "\t" if _CATEGORIES[str(what)](c)])


def _is_member(character: str, kind: str, what: Any) -> bool:
    match kind:
        case "LITERAL":
            return bool(ord(character) == what)
        case "RANGE":
            low, high = what
            return bool(low <= ord(character) <= high)
        case _:
            return _CATEGORIES[str(what)](character)
