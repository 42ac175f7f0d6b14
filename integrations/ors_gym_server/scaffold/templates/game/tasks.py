"""The tasks: every possible code, each in one split."""

from __future__ import annotations

import itertools
import random

LETTERS = "ABCDEF"
LENGTH = 4
MAX_GUESSES = 10

_CODES = ["".join(letters) for letters in itertools.product(LETTERS, repeat=LENGTH)]
random.Random(0).shuffle(_CODES)  # always the same order: a task is identified by its index

TASKS = {
    "train": [{"id": f"train-{index}", "code": code} for index, code in enumerate(_CODES[:1000])],
    "validation": [{"id": f"validation-{index}", "code": code} for index, code in enumerate(_CODES[1000:1100])],
    "test": [{"id": f"test-{index}", "code": code} for index, code in enumerate(_CODES[1100:])],
}


def compare(guess: str, code: str) -> tuple[int, int]:
    """The number of letters in place, and the number of further letters that are elsewhere in the code."""
    in_place = sum(a == b for a, b in zip(guess, code, strict=True))
    in_code = sum(min(guess.count(letter), code.count(letter)) for letter in LETTERS)
    return in_place, in_code - in_place
