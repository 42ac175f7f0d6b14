"""Serve the pictures: ``python server.py``, and on the reference SDK's server: ``python server.py --sdk``."""

from __future__ import annotations

import argparse
import os

from ors_gym.types import Block, Task, TextBlock, ToolOutput
from ors_gym_server import Environment, as_openreward, serve, tool
from pydantic import BaseModel, Field

from drawing import close_up, overview
from tasks import SEEDS, SIZE, scene, tasks


class Cell(BaseModel):
    """What the tool ``zoom`` takes."""

    row: int = Field(ge=1, le=SIZE, description="counted from the top")
    column: int = Field(ge=1, le=SIZE, description="counted from the left")


class Answer(BaseModel):
    """What the tool ``answer`` takes."""

    count: int = Field(ge=0, le=SIZE * SIZE)


class MyEnvironment(Environment):
    """Count what is seen in a picture. One instance is one episode of one task."""

    # ---- what there is: asked of the class, before any episode

    @classmethod
    def list_splits(cls) -> list[str]:
        """The parts that the tasks come in."""
        return list(SEEDS)

    @classmethod
    def list_tasks(cls, split: str) -> list[Task]:
        """The tasks of a split, always in the same order."""
        return tasks(split)

    # ---- an episode

    def setup(self) -> None:
        """Begin."""
        self.scene = scene(self.task_spec["seed"])

    def get_prompt(self) -> list[Block]:
        """What the agent is told first: texts and pictures, in the order they are to be seen."""
        wanted = f"{self.task_spec['colour']} {self.task_spec['shape']}s"
        return [
            TextBlock(f"This picture has {SIZE} rows and {SIZE} columns of cells; some are empty."),
            overview(self.scene),
            TextBlock(f"How many {wanted} are there? Zoom in on cells to see shapes, then answer."),
        ]

    @tool
    def zoom(self, params: Cell) -> ToolOutput:
        """See one cell of the picture, enlarged."""
        return ToolOutput((close_up(self.scene, params.row - 1, params.column - 1),))

    @tool
    def answer(self, params: Answer) -> ToolOutput:
        """Say how many there are. This ends the episode."""
        wanted = self.task_spec["shape"], self.task_spec["colour"]
        count = sum((thing.shape, thing.colour) == wanted for thing in self.scene)
        said = "That is right." if params.count == count else f"That is not right: there are {count}."
        return ToolOutput((TextBlock(said),), reward=float(params.count == count), finished=True)


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
