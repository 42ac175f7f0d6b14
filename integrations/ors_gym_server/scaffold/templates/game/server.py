"""Serve the game: ``python server.py``, and on the reference SDK's server: ``python server.py --sdk``."""

from __future__ import annotations

from ors_gym.types import Task, TextBlock, ToolOutput
from ors_gym_server import Environment, main, tool
from pydantic import BaseModel, Field

from tasks import LENGTH, LETTERS, MAX_GUESSES, TASKS, compare


class Guess(BaseModel):
    """What the tool ``guess`` takes. Its JSON Schema is what the agent sees; what breaks it is refused for us."""

    code: str = Field(description=f"{LENGTH} letters of {LETTERS}", pattern=f"^[{LETTERS}]{{{LENGTH}}}$")


class MyEnvironment(Environment):
    """Find a secret code in a few guesses. One instance is one episode of one task."""

    # ---- what there is: asked of the class, before any episode

    @classmethod
    def list_splits(cls) -> list[str]:
        """The parts that the tasks come in."""
        return list(TASKS)

    @classmethod
    def list_tasks(cls, split: str) -> list[Task]:
        """The tasks of a split, always in the same order."""
        return list(TASKS[split])

    # ---- an episode

    def setup(self) -> None:
        """The connection is made."""
        self.guesses_left = MAX_GUESSES

    def get_prompt(self) -> str:
        """What the agent is told first."""
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
        heard = f"{in_place} in place, {elsewhere} elsewhere."
        if self.guesses_left == 0:
            end = f"{heard} That was your last guess; the code was {self.task_spec['code']}."
            return ToolOutput((TextBlock(end),), reward=0.0, finished=True)
        # No reward is not a reward of zero: what a guess was worth is known at the end.
        return ToolOutput((TextBlock(f"{heard} {self.guesses_left} guesses left."),), reward=None)


if __name__ == "__main__":
    main(MyEnvironment)
