"""Serve the game: ``python server.py``, and on the reference SDK's server: ``python server.py --sdk``."""

from __future__ import annotations

from ors_gym.types import Task, TextBlock, ToolOutput
from ors_gym_server import Environment, main, tool
from pydantic import BaseModel, Field

from tasks import LENGTH, LETTERS, MAX_GUESSES, TASKS, compare


class Guess(BaseModel):
    """The input of the tool ``guess``. The agent sees its JSON Schema; the server refuses invalid input."""

    code: str = Field(description=f"{LENGTH} letters of {LETTERS}", pattern=f"^[{LETTERS}]{{{LENGTH}}}$")


class MyEnvironment(Environment):
    """Find a secret code in a few guesses. An instance is one episode of one task."""

    # ---- class methods: splits and tasks

    @classmethod
    def list_splits(cls) -> list[str]:
        """The splits of the tasks."""
        return list(TASKS)

    @classmethod
    def list_tasks(cls, split: str) -> list[Task]:
        """The tasks of a split, always in the same order."""
        return list(TASKS[split])

    # ---- an episode

    def setup(self) -> None:
        """Prepare the episode."""
        self.guesses_left = MAX_GUESSES

    def get_prompt(self) -> str:
        """The first message to the agent."""
        return (
            f"I have chosen a code: {LENGTH} letters of {LETTERS}; a letter may occur several times. "
            f"You have {MAX_GUESSES} guesses. After each you hear how many letters are right and in place, "
            "and how many more are in the code elsewhere."
        )

    @tool
    def guess(self, params: Guess) -> ToolOutput:
        """Guess the code."""
        self.guesses_left -= 1
        in_place, elsewhere = compare(params.code, self.task_spec["code"])
        if in_place == LENGTH:
            return ToolOutput((TextBlock("That is the code!"),), reward=1.0, finished=True)
        answer = f"{in_place} in place, {elsewhere} elsewhere."
        if self.guesses_left == 0:
            end = f"{answer} That was your last guess; the code was {self.task_spec['code']}."
            return ToolOutput((TextBlock(end),), reward=0.0, finished=True)
        # None is not a reward of 0: the reward is only known at the end.
        return ToolOutput((TextBlock(f"{answer} {self.guesses_left} guesses left."),), reward=None)


if __name__ == "__main__":
    main(MyEnvironment)
