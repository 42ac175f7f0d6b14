"""Serve the pictures: ``python server.py``, and on the reference SDK's server: ``python server.py --sdk``."""

from __future__ import annotations

from ors_gym.types import Block, Task, TextBlock, ToolOutput
from ors_gym_server import Environment, main, tool
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
        """The connection is made."""
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


if __name__ == "__main__":
    main(MyEnvironment)
