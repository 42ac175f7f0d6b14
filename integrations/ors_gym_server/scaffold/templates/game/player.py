"""The policy of ``rollout.py``: it solves the tasks from the information that a model has."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from ors_gym import Reply, ToolCall, Turn
from ors_gym.types import ToolResultBlock, text_of

from tasks import LENGTH, LETTERS, compare


class Player:
    """Guesses the first code that is consistent with all previous answers."""

    async def act(self, turn: Turn) -> Reply:
        """Answer one turn."""
        answers = list(_answers(turn))
        codes = map("".join, itertools.product(LETTERS, repeat=LENGTH))
        code = next(code for code in codes if all(compare(guess, code) == answer for guess, answer in answers))
        return Reply(tool_calls=(ToolCall("guess", {"code": code}),))


def _answers(turn: Turn) -> Iterator[tuple[str, tuple[int, int]]]:
    """Each guess of the conversation with its answer."""
    guesses = [call.input["code"] for message in turn.messages for call in message.tool_calls]
    results = [block for message in turn.messages for block in message.blocks if isinstance(block, ToolResultBlock)]
    for guess, result in zip(guesses, results, strict=True):
        numbers = re.findall(r"(\d+) (?:in place|elsewhere)", text_of(result.blocks))
        yield guess, (int(numbers[0]), int(numbers[1]))
