"""A server of riddles, with all that Inspect has to carry: ``python -m tests.support.riddle_server 0``.

It needs the server's packages only, so that the environment of ``make test-inspect`` runs it.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from ors_gym.types import ImageBlock, Message, Split, TextBlock, ToolOutput
from ors_gym_server import Environment, serve, terminal, tool

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="


class Word(BaseModel):
    text: Annotated[str, Field(min_length=3)]


class Riddle(Environment):
    """A riddle whose answer is the task's; task 3 of the test split cannot be set up."""

    @classmethod
    def list_splits(cls) -> list[Split]:
        """Two splits."""
        return [Split("practice", "train"), Split("exam", "test")]

    @classmethod
    def list_tasks(cls, split: str) -> list[dict[str, Any]]:
        """Eight riddles, two of each topic."""
        return [{"answer": f"answer {index}", "topic": f"topic {index // 2}"} for index in range(8)]

    def setup(self) -> None:
        """Fail for one task."""
        if self.task_spec["answer"] == "answer 3":
            raise RuntimeError("no riddle today")

    def get_messages(self) -> list[Message]:
        """A system message, and a question with an image."""
        number = str(self.task_spec["answer"]).removeprefix("answer ")
        question = (TextBlock(f"Riddle {number}?"), ImageBlock(PIXEL, "image/png"))
        return [Message("system", (TextBlock("You solve riddles."),)), Message("user", question)]

    @tool
    def look(self) -> ToolOutput:
        """Look at the riddle again."""
        return ToolOutput((TextBlock("a picture"), ImageBlock(PIXEL, "image/png")), reward=0.25)

    @tool
    def answer(self, params: Word) -> ToolOutput:
        """Give the answer."""
        right = params.text == self.task_spec["answer"]
        return ToolOutput((TextBlock("right" if right else "wrong"),), reward=float(right), finished=True)

    @tool
    def shout(self) -> ToolOutput:
        """Break."""
        raise RuntimeError("too loud")


class Essay(Environment):
    """Whatever the agent writes without a tool goes to the terminal tool."""

    @classmethod
    def list_splits(cls) -> list[str]:
        """One split."""
        return ["test"]

    @classmethod
    def list_tasks(cls, split: str) -> list[dict[str, Any]]:
        """Two essays."""
        return [{"title": "one"}, {"title": "two"}]

    def get_prompt(self) -> str:
        """The title."""
        return str(self.task_spec["title"])

    @terminal
    @tool
    def hand_in(self, params: Word) -> ToolOutput:
        """Hand the essay in."""
        return ToolOutput((TextBlock("thank you"),), reward=1.0 if "well" in params.text else None, finished=True)


if __name__ == "__main__":
    serve([Riddle, Essay], port=0, started=lambda url: print(url, flush=True))
