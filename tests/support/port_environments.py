"""Gymnasium environments that the tests port."""

from __future__ import annotations

import string

import gymnasium
from adventure import load_advent_dat
from adventure.game import Game
from gymnasium import spaces


class AdventureEnv(gymnasium.Env):
    """Colossal Cave Adventure (the package ``adventure``): find the treasures of the cave and bring them home.

    ## Rewards
    What the game's own score rises by.
    """

    action_space = spaces.Text(60, charset=string.ascii_lowercase + " ")
    observation_space = spaces.Text(10_000, charset=string.printable)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.game = Game(seed=seed)
        load_advent_dat(self.game)
        self.game.start()
        self.score = 0
        said = self.game.do_command(["no"])  # to "would you like instructions?"
        self.score, _ = self.game.compute_score()
        return said.strip(), {}

    def step(self, action):
        said = self.game.do_command(action.split() or ["look"])
        before, (self.score, _) = self.score, self.game.compute_score()
        return said.strip(), self.score - before, self.game.is_finished, False, {"turns": self.game.turns}


class OutOfDateEnv(gymnasium.Env):
    """Does not fit what is installed."""

    def __init__(self):
        self._joint()

    def _joint(self):
        raise AssertionError("the joint moved")
