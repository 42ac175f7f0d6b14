"""The tasks: scenes to inspect. A scene is generated from its seed, always the same."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ors_gym.types import Task

SIZE = 4
SHAPES = ("circle", "square", "triangle")
COLOURS = {"red": (214, 60, 60), "green": (70, 160, 80), "blue": (60, 100, 210)}
SEEDS = {"train": range(1000), "validation": range(1000, 1100), "test": range(1100, 1200)}


@dataclass(frozen=True)
class Thing:
    """The contents of one cell of the scene."""

    row: int
    column: int
    shape: str
    colour: str


def scene(seed: int) -> list[Thing]:
    """Things in about two thirds of the cells."""
    draw = random.Random(seed)
    cells = [(row, column) for row in range(SIZE) for column in range(SIZE) if draw.random() < 0.65]
    return [Thing(row, column, draw.choice(SHAPES), draw.choice(list(COLOURS))) for row, column in cells]


def tasks(split: str) -> list[Task]:
    """The tasks of a split: a scene and what to count in it."""
    found: list[Task] = []
    for seed in SEEDS[split]:
        draw = random.Random(f"question {seed}")
        question = {"shape": draw.choice(SHAPES), "colour": draw.choice(list(COLOURS))}
        found.append({"id": f"{split}-{seed}", "seed": seed, **question})
    return found
