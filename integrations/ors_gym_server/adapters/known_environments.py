"""What is known of environments beyond their spaces: how actions and observations are called.

Names come from the environment itself where it has them (MiniGrid's and the Arcade Learning Environment's actions, the
joints of a MuJoCo model); those of Gymnasium's own environments, which tell them in prose only, stand here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
from gymnasium import spaces

from ors_gym_server.adapters.action_tools import names_fit

__all__ = ["Formatter", "Known", "action_names_of", "known_of"]


Formatter: TypeAlias = Callable[[Any, Mapping[str, Any]], str]
"""Writes an observation, given with its info, as text."""


@dataclass(frozen=True)
class Known:
    """``actions`` are alternatives, for environments that have several action spaces: the one that fits is used."""

    actions: Sequence[Sequence[str]] = ()
    observation: Sequence[str] | None = None
    formatter: Formatter | None = None


def known_of(env: gymnasium.Env[Any, Any]) -> Known:
    """What is known of the environment, by the name of its class or of one that it is derived from.

    Of observations that a wrapper has changed nothing is known.
    """
    names = [cls.__name__ for cls in type(env.unwrapped).__mro__ if cls.__module__.split(".")[0] in SOURCES]
    known = next((KNOWN[name] for name in names if name in KNOWN), Known())
    unchanged = env.observation_space == env.unwrapped.observation_space
    return known if unchanged else Known(known.actions)


def action_names_of(env: gymnasium.Env[Any, Any]) -> tuple[str, ...] | None:
    """The names of the actions as far as they are known, else None."""
    alternatives = [*known_of(env).actions, _own_action_names(env.unwrapped), _joint_names(env.unwrapped)]
    return next((tuple(names) for names in alternatives if names and names_fit(env.action_space, names)), None)


def _own_action_names(env: Any) -> list[str]:
    if isinstance(env.action_space, spaces.Discrete):
        if hasattr(env, "get_action_meanings"):  # the Arcade Learning Environment
            return [meaning.lower() for meaning in env.get_action_meanings()]
        if hasattr(getattr(env, "actions", None), "__members__"):  # MiniGrid: an enumeration
            return [name for name, _ in sorted(env.actions.__members__.items(), key=lambda member: member[1])]
    return []


def _joint_names(env: Any) -> list[str]:
    """The joint that each motor of a MuJoCo model turns."""
    model: Any = getattr(env, "model", None)
    if not hasattr(model, "nu") or not hasattr(model, "actuator"):
        return []
    names = [model.jnt(model.actuator(number).trnid[0]).name for number in range(model.nu)]
    return names if all(names) and len(set(names)) == len(names) else []


def _taxi(state: int, info: Mapping[str, Any]) -> str:
    places = ("R", "G", "Y", "B", "the taxi")
    rest, destination = divmod(int(state), 4)
    rest, passenger = divmod(rest, 5)
    row, column = divmod(rest, 5)
    where = f"in {places[passenger]}" if passenger == 4 else f"at {places[passenger]}"
    return f"taxi at row {row}, column {column}; passenger {where}; destination {places[destination]}"


def _minigrid(observation: Any, info: Mapping[str, Any]) -> str:
    """The mission, the direction, and the cells in view as a map with what stands on it told apart."""
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


SOURCES = ("gymnasium", "minigrid")
"""The packages whose classes the table is of."""

_PUSH = ("left", "none", "right")
_LEGS = ("hip_1", "knee_1", "hip_2", "knee_2")

KNOWN: dict[str, Known] = {
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
    "CliffWalkingEnv": Known([("up", "right", "down", "left")]),
    "Continuous_MountainCarEnv": Known([("force",)], ("position", "velocity")),
    "FrozenLakeEnv": Known([("left", "down", "right", "up")]),
    "LunarLander": Known(
        [("nothing", "left_engine", "main_engine", "right_engine"), ("main_engine", "lateral_engine")],
        ("x", "y", "x velocity", "y velocity", "angle", "angular velocity", "left leg touches", "right leg touches"),
    ),
    "MiniGridEnv": Known(formatter=_minigrid),
    "MountainCarEnv": Known([_PUSH], ("position", "velocity")),
    "PendulumEnv": Known([("torque",)], ("cos(angle)", "sin(angle)", "angular velocity")),
    "TaxiEnv": Known([("south", "north", "east", "west", "pickup", "dropoff")], formatter=_taxi),
}
