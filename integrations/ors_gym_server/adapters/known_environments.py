"""What is known of environments beyond their spaces: names of actions and observations, and what to show.

Names come from the environment itself if it has them (:mod:`ors_gym_server.adapters.action_names`); those of
Gymnasium's own environments, which only list them in prose, are listed here.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
import numpy as np

from ors_gym_server.adapters.action_names import own_action_names
from ors_gym_server.adapters.action_tools import names_fit
from ors_gym_server.adapters.observation_text import characters

__all__ = ["Formatter", "Known", "action_names_of", "known_of"]


Formatter: TypeAlias = Callable[[Any, Mapping[str, Any]], str]
"""Formats an observation as text, given the observation and its info."""


@dataclass(frozen=True)
class Known:
    """``actions`` are alternatives for environments with several action spaces: the first that fits is used."""

    actions: Sequence[Sequence[str]] = ()
    observation: Sequence[str] | None = None
    formatter: Formatter | None = None
    rules: Callable[[gymnasium.Env[Any, Any], str], str] | None = None
    """Adapts the rules in the documentation to this environment."""
    is_drawn: bool = False
    """Whether the drawing contains everything in the observation."""
    is_told: bool = False
    """Whether the formatter shows everything in a text drawing."""
    any_action: bool = False
    """Whether masked actions are possible as well, but useless."""


def known_of(env: gymnasium.Env[Any, Any]) -> Known:
    """The known facts about the environment, by the name of its class or a base class.

    Nothing is known about observations that a wrapper has changed.
    """
    names = [cls.__name__ for cls in type(env.unwrapped).__mro__ if cls.__module__.split(".")[0] in SOURCES]
    known = next((KNOWN[name] for name in names if name in KNOWN), Known())
    unchanged = env.observation_space == env.unwrapped.observation_space
    return known if unchanged else Known(known.actions, any_action=known.any_action)


def action_names_of(env: gymnasium.Env[Any, Any]) -> tuple[str, ...] | None:
    """The names of the actions, if known."""
    alternatives = [*known_of(env).actions, own_action_names(env)]
    return next((tuple(names) for names in alternatives if names and names_fit(env.action_space, names)), None)


def _taxi(state: int, info: Mapping[str, Any]) -> str:
    places = ("R", "G", "Y", "B", "the taxi")
    rest, destination = divmod(int(state), 4)
    rest, passenger = divmod(rest, 5)
    row, column = divmod(rest, 5)
    where = f"in {places[passenger]}" if passenger == 4 else f"at {places[passenger]}"
    return f"taxi at row {row}, column {column}; passenger {where}; destination {places[destination]}"


def _minigrid(observation: Any, info: Mapping[str, Any]) -> str:
    """The mission, the direction, and the visible cells as a map with the things on it described."""
    from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT, STATE_TO_IDX

    view = observation["image"]
    width, height, _ = view.shape
    states = {number: name for name, number in STATE_TO_IDX.items()}
    signs = {"unseen": "?", "empty": ".", "floor": ".", "wall": "#"}
    rows = [["?"] * width for _ in range(height)]
    things: list[str] = []
    for column in range(width):
        for row in range(height):
            kind, colour, state = map(int, view[column, row])
            name = IDX_TO_OBJECT[kind]
            here = (column, row) == (width // 2, height - 1)
            rows[row][column] = "A" if here else signs.get(name, name[0].upper())
            if name not in signs and not here:
                door = f"{states[state]} " if name == "door" else ""
                things.append(f"{door}{IDX_TO_COLOR[colour]} {name} ({_place(column - width // 2, height - 1 - row)})")
            elif here and name not in signs:
                things.append(f"{IDX_TO_COLOR[colour]} {name} (you carry it)")
    direction = ("right", "down", "left", "up")[int(observation["direction"])]
    return (
        f"mission: {observation['mission']}\n"
        f"You face {direction} on the whole map. You see, with yourself as A looking up:\n"
        + "\n".join(" ".join(row) for row in rows)
        + f"\nin view: {', '.join(things) or 'nothing but floor (.) and walls (#)'}"
    )


def _place(right: int, ahead: int) -> str:
    sideways = f"{abs(right)} to the {'right' if right > 0 else 'left'}" if right else ""
    return ", ".join(part for part in (f"{ahead} ahead" if ahead else "", sideways) if part)


def _without_chance(env: gymnasium.Env[Any, Any], rules: str) -> str:
    """The rules without slippery ground, if there is none."""
    bare: Any = env.unwrapped
    if any(len(outcomes) > 1 for moves in bare.P.values() for outcomes in moves.values()):
        return rules
    return re.sub(r"[^.\n]*slipp[^.]*\. ?", "", rules).rstrip() + "\n\nEach move goes where it is meant to."


def _lake(env: gymnasium.Env[Any, Any], rules: str) -> str:
    """Adds whether the ice is slippery."""
    rules = _without_chance(env, rules)
    return rules + "\n\nIn the drawing S is the start, F ice, H a hole and G the goal; brackets are around your place."


def _cliff(env: gymnasium.Env[Any, Any], rules: str) -> str:
    return _without_chance(env, rules) + "\n\nIn the drawing x is your place, C the cliff and T the target."


def _map(codes: Any) -> str:
    """Rows of characters without empty margins."""
    return textwrap.dedent(characters(codes))


def _highway(env: gymnasium.Env[Any, Any], rules: str) -> str:
    told = "Row 0 of what you see is your own vehicle, the others are vehicles near it."
    return f"{rules}\n\n{told}" if hasattr(getattr(env.unwrapped, "observation_type", None), "features") else rules


def _nethack(observation: Any, info: Mapping[str, Any]) -> str:
    """The terminal as a player sees it: message, map and status line."""
    if "tty_chars" in observation:
        terminal = observation["tty_chars"]
        parts = [characters(terminal[:1]), _map(terminal[1:-2]), characters(terminal[-2:])]
        return "\n".join(part for part in parts if part)
    parts = [characters(observation["message"])] if "message" in observation else []
    parts += [_map(observation["chars"])] if "chars" in observation else []
    if "blstats" in observation:
        stats = dict(zip(_STATS, map(int, observation["blstats"]), strict=False))
        parts.append(", ".join(f"{name} {stats[name]}" for name in _STATS if name in _SHOWN_STATS and name in stats))
    if not parts:
        return "\n".join(f"{name}: {np.asarray(part).tolist()}" for name, part in observation.items())
    return "\n".join(part for part in parts if part)


_STATS = (
    *("x", "y", "strength percentage", "strength", "dexterity", "constitution", "intelligence", "wisdom", "charisma"),
    *("score", "hit points", "maximum hit points", "depth", "gold", "energy", "maximum energy", "armor class"),
    *("monster level", "experience level", "experience points", "time", "hunger", "carrying", "dungeon", "level"),
)
"""NLE's ``blstats``, in order."""
_SHOWN_STATS = (
    "hit points",
    "maximum hit points",
    "depth",
    "gold",
    "energy",
    "armor class",
    "experience level",
    "time",
)


SOURCES = ("gymnasium", "minigrid", "nle", "minihack", "highway_env")
"""The packages of the classes in the table."""

_PUSH = ("left", "none", "right")
_LEGS = ("hip_1", "knee_1", "hip_2", "knee_2")

KNOWN: dict[str, Known] = {
    "AbstractEnv": Known(rules=_highway),
    "AcrobotEnv": Known(
        [("torque_negative", "torque_none", "torque_positive")],
        ("cos(angle 1)", "sin(angle 1)", "cos(angle 2)", "sin(angle 2)", "angular velocity 1", "angular velocity 2"),
    ),
    "BipedalWalker": Known([_LEGS]),
    "BlackjackEnv": Known([("stick", "hit")], ("your sum", "dealer's card", "usable ace")),
    "CarRacing": Known([("steer", "gas", "brake"), ("nothing", "steer_right", "steer_left", "gas", "brake")]),
    "CartPoleEnv": Known(
        [("left", "right")], ("cart position", "cart velocity", "pole angle", "pole angular velocity")
    ),
    "CliffWalkingEnv": Known([("up", "right", "down", "left")], rules=_cliff, is_drawn=True),
    "Continuous_MountainCarEnv": Known([("force",)], ("position", "velocity")),
    "FrozenLakeEnv": Known([("left", "down", "right", "up")], rules=_lake, is_drawn=True),
    "LunarLander": Known(
        [("nothing", "left_engine", "main_engine", "right_engine"), ("main_engine", "lateral_engine")],
        ("x", "y", "x velocity", "y velocity", "angle", "angular velocity", "left leg touches", "right leg touches"),
    ),
    "MiniGridEnv": Known(formatter=_minigrid),
    "NLE": Known(formatter=_nethack, is_told=True),
    "MountainCarEnv": Known([_PUSH], ("position", "velocity")),
    "PendulumEnv": Known([("torque",)], ("cos(angle)", "sin(angle)", "angular velocity")),
    "TaxiEnv": Known([("south", "north", "east", "west", "pickup", "dropoff")], formatter=_taxi, any_action=True),
}
