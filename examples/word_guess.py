"""Guess a word of five letters in six tries; each try is answered with the letters that are right.

ors-gym serve word_guess:WordGuess
ors-gym rollout http://127.0.0.1:8080 --policy word_guess:Solver
python train_grpo.py --url http://127.0.0.1:8080 --env wordguess --model Qwen/Qwen3-0.6B --max-turns 8
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

from ors_gym import Reply, TextBlock, ToolCall, ToolOutput, Turn
from ors_gym.types import ToolResultBlock, text_of
from ors_gym_server import Environment, main, tool

WORDS = """
    apple beach brick cabin chair cloud crane dance dream eagle earth flame fruit ghost glass grape green heart
    horse house juice knife lemon light lunch money month mouse music night ocean paint paper party peace piano
    pilot plant queen radio river robot salad scarf shirt smile snake sound space spoon stone storm sugar table
    tiger toast train truck voice water whale wheel world zebra
""".split()  # noqa: SIM905
TRIES = 6


class Guess(BaseModel):
    """A word."""

    word: str = Field(pattern="^[a-z]{5}$", description="five letters, lower case")


def marks(guess: str, word: str) -> str:
    """G: the letter is right; Y: it is elsewhere in the word; -: neither."""
    left = Counter(there for here, there in zip(guess, word, strict=True) if here != there)
    shown = []
    for here, there in zip(guess, word, strict=True):
        if here == there:
            shown.append("G")
        elif left[here]:
            left[here] -= 1
            shown.append("Y")
        else:
            shown.append("-")
    return "".join(shown)


class WordGuess(Environment):
    """One episode: one word."""

    def __init__(self, task_spec: Mapping[str, Any], secrets: Mapping[str, str] | None = None) -> None:
        super().__init__(task_spec, secrets)
        self.tries = 0

    @classmethod
    def list_splits(cls) -> Sequence[str]:
        """Every fourth word is for testing."""
        return ["train", "test"]

    @classmethod
    def list_tasks(cls, split: str) -> Sequence[Mapping[str, Any]]:
        """A task is a word."""
        return [{"word": word} for place, word in enumerate(WORDS) if (place % 4 == 3) is (split == "test")]

    def get_prompt(self) -> str:
        """The rules."""
        return (
            f"Guess an English word of five letters in {TRIES} tries. Each try is answered with five marks: G for a "
            "right letter, Y for a letter that is elsewhere in the word, - for one that does not."
        )

    @tool
    def guess(self, guess: Guess) -> ToolOutput:
        """Guess the word."""
        self.tries += 1
        right = guess.word == self.task_spec["word"]
        over = right or self.tries == TRIES
        text = marks(guess.word, self.task_spec["word"])
        return ToolOutput((TextBlock(text),), reward=float(right) if over else None, finished=over)


class Solver:
    """Guesses a word that fits all previous answers: the best a policy that knows the words can do."""

    async def act(self, turn: Turn) -> Reply:
        """Answer a turn."""
        words = WORDS
        asked = [call.input["word"] for message in turn.messages for call in message.tool_calls]
        blocks = [block for message in turn.messages for block in message.blocks]
        told = [text_of(block.blocks) for block in blocks if isinstance(block, ToolResultBlock)]
        for guess, answer in zip(asked, told, strict=True):
            words = [word for word in words if marks(guess, word) == answer]
        return Reply(tool_calls=(ToolCall("guess", {"word": words[len(words) // 2]}),))


if __name__ == "__main__":
    main(WordGuess)
