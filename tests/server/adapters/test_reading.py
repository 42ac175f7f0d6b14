"""What is made of what environments say of their actions: their names, and which of them are possible now."""

from __future__ import annotations

import enum
import logging
import random

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from ors_gym_server import as_ors_environment
from ors_gym_server.adapters.action_names import own_action_names
from ors_gym_server.adapters.observation_text import observation_blocks


class CompassDirection(enum.IntEnum):
    N = 10
    E = 11


class CompassDirectionLonger(enum.IntEnum):
    N = 20
    UP = 21


class Plain(enum.Enum):
    UP = 1
    DOWN = 0


class Bare(gymnasium.Env):
    """Nothing is known of it."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Discrete(5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {"board": "x o", "legal_actions": [1]}

    def step(self, action):
        return int(action), 0.0, False, False, {"board": "x x", "legal_actions": [0]}


class Documented(Bare):
    """A lake.

    | Number | Action |
    |--------|--------|
    | 0      | Row    |
    | 1      | Fish   |
    """


def with_attribute(name, value, size):
    env = type("Told", (Bare,), {"action_space": spaces.Discrete(size)})()
    setattr(env, name, value)
    return env


@pytest.mark.parametrize(
    ("env", "names"),
    [
        (
            with_attribute(
                "actions",
                (CompassDirection.N, CompassDirection.E, CompassDirectionLonger.N, CompassDirectionLonger.UP),
                4,
            ),
            None,
        ),
        (with_attribute("actions", Plain, 2), ["down", "up"]),
        (with_attribute("action_names", ["Left", "Right"], 2), ["left", "right"]),
        (with_attribute("actions", {0: "IDLE", 1: "FASTER"}, 2), ["idle", "faster"]),
        (with_attribute("ACTIONS", {"go": 1, "stay": 0}, 2), ["stay", "go"]),
        (with_attribute("get_action_meanings", lambda: ["NOOP", "FIRE"], 2), ["noop", "fire"]),
        (with_attribute("actions", ["a", "a"], 2), []),  # the same name twice is none
        (with_attribute("actions", ["a"], 2), []),
        (Documented(), ["row", "fish"]),
        (Bare(), []),
    ],
)
def test_actions_are_called_what_the_environment_calls_them(env, names):
    assert own_action_names(env) == (["north", "east", "far north", "up"] if names is None else names)


def test_impossible_actions_are_listed_and_refused():
    made = as_ors_environment(Bare, action_names=["stay", "go"], info_keys=["board"])
    episode = made({"seed": 0})
    episode.setup()
    assert [block.text for block in episode.get_prompt()][-2:] == ["x o", "actions now: go"]
    refused = episode.call_tool("step", {"action": "stay"})
    assert (refused.ok, refused.reason) == (False, "input_validation")
    assert refused.error == "stay is not possible now. actions now: go"
    moved = episode.call_tool("step", {"action": "go"})
    assert [block.text for block in moved.blocks] == ["1", "x x", "actions now: stay"]
    anything = as_ors_environment(Bare, any_action=True)({"seed": 0})
    anything.setup()
    assert anything.call_tool("step", {"action": 0}).blocks[-1].text == "actions of use now: 0"


def test_rows_of_an_array_are_no_pictures_and_too_many_numbers_are_not_written():
    descriptions = np.zeros((21, 79, 80), np.uint8)
    (text,) = observation_blocks(descriptions)
    assert text.text == "21 by 79 by 80 numbers from 0 to 0, too many to write"


class Unseeded(Bare):
    """Draws its first observation by a generator of its own, without the seed."""

    def reset(self, *, seed=None, options=None):
        return int(np.random.default_rng().integers(2**40)), {}


def test_a_seed_that_is_ignored_is_warned_of(caplog):
    state = random.getstate()
    with caplog.at_level(logging.WARNING):
        as_ors_environment(Bare)
        assert not caplog.records
        as_ors_environment(Unseeded)
        as_ors_environment(Unseeded, check_seeds=False)
    (record,) = caplog.records
    assert "two resets with the same seed start different episodes: " in record.getMessage()
    assert "it does not draw everything from the seed" in record.getMessage()
    assert random.getstate() == state
