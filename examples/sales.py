"""A question about a data file, answered with a shell in a sandbox. Needs Linux and the extra `sandbox`.

ors-gym serve sales:Sales
ors-gym rollout http://127.0.0.1:8080 --policy sales:Solver
python train_grpo.py --url http://127.0.0.1:8080 --env sales --model Qwen/Qwen3-4B --max-turns 8
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from ors_gym import Reply, TextBlock, ToolCall, ToolOutput, Turn
from ors_gym_server import Environment, main, tool
from ors_gym_server.sandbox import USUAL, LocalSandbox, SandboxLimits

PRODUCTS = ("chairs", "desks", "lamps", "shelves")
SIZES = {"train": 100, "test": 20}
LIMITS = SandboxLimits(wall_seconds=20, memory_bytes=256 * 2**20, output_bytes=8_000)


class Command(BaseModel):
    """The shell command."""

    command: str


class Answer(BaseModel):
    """The answer."""

    number: int


def rows(seed: str) -> list[tuple[str, int]]:
    """Products and numbers sold, one line each."""
    draw = random.Random(seed)
    return [(draw.choice(PRODUCTS), draw.randint(1, 50)) for _ in range(200)]


class Sales(Environment):
    """One episode: one file and one question."""

    def __init__(self, task_spec: Mapping[str, Any], secrets: Mapping[str, str] | None = None) -> None:
        super().__init__(task_spec, secrets)
        self.sandbox = LocalSandbox(LIMITS, require=USUAL - {"disk"})

    @classmethod
    def list_splits(cls) -> Sequence[str]:
        """Training and test questions, about different files."""
        return list(SIZES)

    @classmethod
    def list_tasks(cls, split: str) -> Sequence[Mapping[str, Any]]:
        """The seed of the task's file and a product; the answer is computed when it is needed."""
        return [{"seed": f"{split} {n}", "product": PRODUCTS[n % len(PRODUCTS)]} for n in range(SIZES[split])]

    async def setup(self) -> None:
        """Start the sandbox, and upload the file."""
        await self.sandbox.start()
        lines = ["product,sold", *(f"{product},{sold}" for product, sold in rows(self.task_spec["seed"]))]
        await self.sandbox.upload("\n".join(lines).encode(), "sales.csv")

    async def teardown(self) -> None:
        """Close the sandbox, however the episode ended."""
        await self.sandbox.close()

    def get_prompt(self) -> str:
        """The question."""
        return (
            f"How many {self.task_spec['product']} were sold? The file is sales.csv: use bash, then submit the number."
        )

    @tool
    async def bash(self, command: Command) -> ToolOutput:
        """Run a command in the sandbox."""
        result = await self.sandbox.run(command.command)
        return ToolOutput((TextBlock(result.stdout + result.stderr),))

    @tool
    def submit(self, answer: Answer) -> ToolOutput:
        """Submit the answer. This ends the episode."""
        wanted = sum(sold for product, sold in rows(self.task_spec["seed"]) if product == self.task_spec["product"])
        right = answer.number == wanted
        return ToolOutput((TextBlock("Right." if right else "Wrong."),), reward=float(right), finished=True)


class Solver:
    """Sums up with awk, and submits the result."""

    async def act(self, turn: Turn) -> Reply:
        """Answer a turn."""
        if turn.number == 0:
            product = re.findall(r"How many (\w+)", turn.messages[0].text)[0]
            add = f"awk -F, '$1 == \"{product}\" {{ total += $2 }} END {{ print total + 0 }}' sales.csv"
            return Reply(tool_calls=(ToolCall("bash", {"command": add}),))
        return Reply(tool_calls=(ToolCall("submit", {"number": int(turn.observation)}),))


if __name__ == "__main__":
    main(Sales)
