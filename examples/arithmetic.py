"""Grade-school word problems with a calculator and an answer to submit.

    ors-gym serve arithmetic:Arithmetic
    ors-gym rollout http://127.0.0.1:8080 --policy arithmetic:Solver
    python train_grpo.py --url http://127.0.0.1:8080 --env arithmetic --model Qwen/Qwen3-0.6B --max-turns 4

The problems are generated here from seeds. Any other source of questions and answers works, such as reasoning-gym.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from ors_gym import Reply, TextBlock, ToolCall, ToolOutput, Turn
from ors_gym_server import Environment, main, tool

SIZES = {"train": 1000, "test": 200}
NAMES, THINGS = ("Ana", "Ben", "Chen", "Dana", "Eli"), ("apples", "books", "coins", "pencils", "shells")


class Sum(BaseModel):
    """One step of a calculation."""

    a: int
    operator: Literal["+", "-", "*"]
    b: int


class Answer(BaseModel):
    """The answer."""

    number: int


def problem(split: str, index: int) -> dict[str, Any]:
    """A question with two steps, and its answer. The splits share no seed."""
    draw = random.Random(f"{split} {index}")
    name, thing = draw.choice(NAMES), draw.choice(THINGS)
    boxes, each, given = draw.randint(2, 9), draw.randint(3, 12), draw.randint(1, 5)
    question = (
        f"{name} has {boxes} boxes with {each} {thing} in each and gives {given} {thing} away. How many are left?"
    )
    return {"id": f"{split}-{index}", "question": question, "answer": boxes * each - given}


class Arithmetic(Environment):
    """One episode: one question."""

    @classmethod
    def list_splits(cls) -> Sequence[str]:
        """Training and test questions."""
        return list(SIZES)

    @classmethod
    def list_tasks(cls, split: str) -> Sequence[Mapping[str, Any]]:
        """The questions of a split."""
        return [problem(split, index) for index in range(SIZES[split])]

    def get_prompt(self) -> str:
        """The question."""
        return f"{self.task_spec['question']} Use the tools, and submit the number."

    @tool
    def calculate(self, sum: Sum) -> ToolOutput:
        """Add, subtract or multiply two numbers."""
        result = {"+": sum.a + sum.b, "-": sum.a - sum.b, "*": sum.a * sum.b}[sum.operator]
        return ToolOutput((TextBlock(str(result)),))

    @tool
    def submit(self, answer: Answer) -> ToolOutput:
        """Submit the answer. This ends the episode."""
        right = answer.number == self.task_spec["answer"]
        return ToolOutput((TextBlock("Right." if right else "Wrong."),), reward=float(right), finished=True)


class Solver:
    """Multiplies, subtracts, submits."""

    async def act(self, turn: Turn) -> Reply:
        """Answer a turn."""
        boxes, each, given = map(int, re.findall(r"\d+", turn.messages[0].text))
        calls = [
            ToolCall("calculate", {"a": boxes, "operator": "*", "b": each}),
            ToolCall("calculate", {"a": boxes * each, "operator": "-", "b": given}),
            ToolCall("submit", {"number": boxes * each - given}),
        ]
        return Reply(tool_calls=(calls[turn.number],))


if __name__ == "__main__":
    main(Arithmetic)
