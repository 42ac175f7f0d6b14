"""Environments whose tasks are what they say, and such as are not. Other processes import them."""

from __future__ import annotations

import os
import random
from typing import ClassVar

from ors_gym.types import TextBlock, ToolOutput
from ors_gym_server import Environment, tool


class Numbered(Environment):
    """Tasks that have a number each."""

    num_tasks_of_train: ClassVar[int] = 2

    @classmethod
    def list_splits(cls):
        return ["train"]

    @classmethod
    def list_tasks(cls, split):
        return [{"n": n} for n in range(cls.num_tasks_of_train)]

    def get_prompt(self):
        return "Work."


class OneTask(Environment):
    """One task with nothing in it."""

    @classmethod
    def list_splits(cls):
        return ["train"]

    @classmethod
    def list_tasks(cls, split):
        return [{}]


class Dice(Environment):
    """Throws dice by the task's seed."""

    @classmethod
    def list_splits(cls):
        return ["train"]

    @classmethod
    def list_tasks(cls, split):
        return [{"seed": seed} for seed in range(100)]

    def setup(self):
        self.dice = random.Random(self.task_spec["seed"])

    def get_prompt(self):
        return "Throw."

    @tool
    def throw(self) -> ToolOutput:
        """Throw."""
        return ToolOutput((TextBlock(str(self.dice.randrange(1000))),), reward=0.0)


class Forgetful(Dice):
    """Ignores the seed."""

    def setup(self):
        self.dice = random.Random()


class Loaded(Dice):
    """Every task is the same."""

    def setup(self):
        self.dice = random.Random(1)


class Global(Dice):
    """Seeds the process's own generator."""

    def setup(self):
        random.seed(self.task_spec["seed"])
        self.dice = random


class Ordered(Dice):
    """Depends on the order of a set."""

    def get_prompt(self):
        return " ".join({"north", "south", "east", "west", "up", "down"})


class Fatal(Dice):
    """Ends its process, as a drawing library without a display does."""

    def setup(self):
        os.write(2, b"GLFWError: X11: The DISPLAY environment variable is missing\n")
        os.abort()
