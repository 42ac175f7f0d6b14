"""Serve the game: ``python server.py``, and on the reference SDK's server: ``python server.py --sdk``."""

from __future__ import annotations

import argparse
import os

from ors_gym.types import Task, TextBlock, ToolOutput
from ors_gym_server import Environment, as_openreward, serve, tool
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
        """Begin."""
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


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="(default: %(default)s)")
    parser.add_argument("--open-to-all", action="store_true", help="let other machines connect without a key")
    parser.add_argument("--sdk", action="store_true", help="on the reference SDK's server: pip install openreward")
    arguments = parser.parse_args()
    if arguments.sdk:
        from openreward.environments import Server

        Server([as_openreward(MyEnvironment)]).run(arguments.host, arguments.port)
    else:
        serve(
            [MyEnvironment],
            host=arguments.host,
            port=arguments.port,
            api_key=os.environ.get("ORS_API_KEY") or None,
            open_to_all=arguments.open_to_all,
            started=lambda url: print(f"Serving at {url}", flush=True),
        )


if __name__ == "__main__":
    main()
