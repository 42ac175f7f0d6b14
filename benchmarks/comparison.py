"""Two comparisons of policies on real servers, shown in docs/evaluation.md.

    python benchmarks/comparison.py [--out runs/comparison]

- ``sums``: word problems of the form of GSM8K with a ``submit`` tool, 200 tasks, 4 epochs. Two scripted solvers make a
  mistake in each step of a problem, one more often than the other.
- ``blackjack``: Gymnasium's game, 100 deals. One player hits below 17, the other below 20; mean returns are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ors_gym import Reply, ToolCall
from ors_gym.evaluation import Rules, evaluate
from ors_gym.evaluation.page import write_evaluation_page
from ors_gym.policies.policy import Turn
from ors_gym.types import TextBlock, ToolOutput
from ors_gym_server import Environment, as_ors_environment, serve, tool

STORIES = (("buys", 1), ("finds", 1), ("loses", -1), ("gives away", -1))


class Answer(BaseModel):
    """The submitted answer."""

    answer: str


class Sums(Environment):
    """Word problems in two to six steps."""

    @classmethod
    def list_splits(cls) -> Sequence[str]:
        """One split."""
        return ["test"]

    @classmethod
    def list_tasks(cls, split: str) -> Sequence[Mapping[str, Any]]:
        """Two hundred problems, each with its number of steps."""
        return [_problem(random.Random(index)) for index in range(200)]

    def get_prompt(self) -> str:
        """The problem."""
        return f"{self.task_spec['question']}\nSubmit the number."

    @tool
    def submit(self, params: Answer) -> ToolOutput:
        """Submit the answer."""
        right = params.answer.strip() == str(self.task_spec["answer"])
        return ToolOutput((TextBlock("right" if right else "wrong"),), reward=float(right), finished=True)


def _problem(draw: random.Random) -> Mapping[str, Any]:
    total = draw.randint(20, 60)
    sentences = [f"Ada has {total} apples."]
    steps = draw.randint(2, 6)
    for _ in range(steps):
        verb, sign = draw.choice(STORIES)
        number = draw.randint(2, 9)
        total += sign * number
        sentences.append(f"She {verb} {number}.")
    return {"question": " ".join([*sentences, "How many does she have now?"]), "answer": total, "steps": steps}


@dataclass(frozen=True)
class Solver:
    """Solves the problem, with an error of one in some of the steps."""

    mistakes: float

    async def act(self, turn: Turn) -> Reply:
        """Submit the result."""
        draw = random.Random(f"{turn.seed} {self.mistakes}")
        numbers = [int(number) for number in re.findall(r"\d+", turn.messages[-1].text)]
        verbs = re.findall("|".join(verb for verb, _ in STORIES), turn.messages[-1].text)
        total = numbers[0]
        for verb, number in zip(verbs, numbers[1:], strict=True):
            total += dict(STORIES)[verb] * number + (draw.random() < self.mistakes)
        return Reply(tool_calls=(ToolCall("submit", {"answer": str(total)}),))


@dataclass(frozen=True)
class Player:
    """Hits below a sum."""

    sticks_at: int

    async def act(self, turn: Turn) -> Reply:
        """Play one card."""
        said = " ".join(str(message.to_wire()) for message in turn.messages[-1:])
        own = int(re.findall(r"your sum: (\d+)", said)[-1])
        return Reply(tool_calls=(ToolCall("step", {"action": "hit" if own < self.sticks_at else "stick"}),))


async def play(url: str, out: Path) -> None:
    """Play both comparisons and print the verdicts."""
    models: dict[str, Any] = {"careful": Solver(0.04), "hasty": Solver(0.09)}
    await _compare(url, "sums", models, out, Rules(), epochs=4)
    players: dict[str, Any] = {"hits below 17": Player(17), "hits below 20": Player(20)}
    await _compare(url, "blackjack", players, out, Rules(metric="return"), split="test")


async def _compare(url: str, env: str, models: dict[str, Any], out: Path, rules: Rules, **options: Any) -> None:
    folder = out / env
    evaluation = await evaluate(url, models, env_name=env, rules=rules, out=folder / "run.jsonl", **options)
    write_evaluation_page(folder / "report.html", evaluation)
    print(f"{env}\n{evaluation.summary()}\n")


def main() -> None:
    """Start the server, and play."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/comparison"))
    arguments = parser.parse_args()
    started: list[str] = []
    ready = threading.Event()

    def serving(url: str) -> None:
        started.append(url)
        ready.set()

    environments = [Sums, as_ors_environment("Blackjack-v1")]
    threading.Thread(target=serve, args=[environments], kwargs={"port": 0, "started": serving}, daemon=True).start()
    ready.wait()
    asyncio.run(play(started[0], arguments.out))


if __name__ == "__main__":
    main()
