"""Names of an environment's actions, if it provides any.

Environments provide them in different ways: by a method (the Arcade Learning Environment), an enumeration (MiniGrid), a
list of members of enumerations (NLE), a mapping from numbers (highway-env), a list of texts (Crafter), or in the
documentation.
"""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium
from gymnasium import spaces

from ors_gym_server.adapters.action_tools import names_fit

__all__ = ["names_in", "own_action_names"]

_METHODS = ("get_action_meanings", "get_action_names")
_ATTRIBUTES = (
    "actions",
    "action_names",
    "action_meanings",
    "ACTION_NAMES",
    "ACTION_MEANINGS",
    "ACTION_MEANING",
    "ACTIONS",
)
_HOLDERS = ("action_type", "_action_type")
"""Attributes whose own attributes are searched: highway-env's."""
_COMPASS = {
    "n": "north",
    "e": "east",
    "s": "south",
    "w": "west",
    "ne": "northeast",
    "se": "southeast",
    "sw": "southwest",
    "nw": "northwest",
}
_NUMBERED = re.compile(r"^\s*(?:[-*|]\s*)?`?(\d+)`?\s*(?::|=|\\?\||-|\))\s*`?(.+?)`?\s*\|?\s*$", re.MULTILINE)
_LONGEST = 40
"""Maximum characters of a name; a longer text is a description."""


def own_action_names(env: gymnasium.Env[Any, Any]) -> list[str]:
    """The names of a Discrete space's values or of a MuJoCo model's joints; empty if the environment has none."""
    bare: Any = env.unwrapped
    if not isinstance(env.action_space, spaces.Discrete):
        return _joint_names(bare)
    for names_value in _candidates(bare):
        names = _names(names_value, env.action_space)
        if names:
            return names
    return names_in(inspect.getdoc(type(bare)) or "", env.action_space)


def _candidates(env: Any) -> Iterator[Any]:
    for name in _METHODS:
        if callable(method := getattr(env, name, None)):
            yield method()
    for owner in (env, *(getattr(env, holder, None) for holder in _HOLDERS)):
        for name in _ATTRIBUTES:
            value = getattr(owner, name, None)
            if value is not None and not inspect.isroutine(value):
                yield value


def _names(value: Any, space: spaces.Discrete[Any]) -> list[str]:
    """The names in order, if ``value`` names all values of the space."""
    members: list[Any]
    if isinstance(value, type) and issubclass(value, enum.Enum):
        members = sorted(value, key=lambda member: _number(member.value))
    elif isinstance(value, Mapping):
        table: dict[Any, Any] = dict(value)
        numbers = range(int(space.start), int(space.start + space.n))
        if set(table) == set(numbers):
            members = [table[number] for number in numbers]
        elif set(table.values()) == set(numbers) and len(table) == space.n:
            members = sorted(table, key=lambda name: table[name])
        else:
            return []
    elif isinstance(value, Sequence) and not isinstance(value, str):
        members = list(value)
    else:
        return []
    if not all(isinstance(member, str | enum.Enum) for member in members) or not names_fit(space, members):
        return []
    names = [_name(member) for member in members]
    if len(set(names)) < len(names):  # members of several enumerations share some names
        names = [_name(member, among=names) for member in members]
    return names if all(names) and len(set(names)) == len(names) else []


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _name(member: Any, among: Sequence[str] = ()) -> str:
    name = str(member.name if isinstance(member, enum.Enum) else member).strip().lower()
    name = _COMPASS.get(name, name)
    if among.count(name) > 1 and isinstance(member, enum.Enum):
        kind = type(member).__name__.lower()
        return f"far {name}" if kind.endswith("longer") else name if "direction" in kind else f"{name} ({kind})"
    return name


def names_in(documentation: str, space: spaces.Discrete[Any]) -> list[str]:
    """``- 0: left`` and ``| 1 | right |``: the first list in the documentation that numbers all values."""
    numbers = [str(number) for number in range(int(space.start), int(space.start + space.n))]
    found = _NUMBERED.findall(documentation)
    for first in range(len(found) - len(numbers) + 1):
        part = found[first : first + len(numbers)]
        names = [text.split("|")[0].strip(" .`*\\").lower() for _, text in part]
        if [number for number, _ in part] == numbers and all(0 < len(name) <= _LONGEST for name in names):
            return names if len(set(names)) == len(names) else []
    return []


def _joint_names(env: Any) -> list[str]:
    """The joint that each motor of a MuJoCo model drives."""
    model: Any = getattr(env, "model", None)
    if not hasattr(model, "nu") or not hasattr(model, "actuator"):
        return []
    names = [model.jnt(model.actuator(number).trnid[0]).name for number in range(model.nu)]
    return names if all(names) and len(set(names)) == len(names) else []
