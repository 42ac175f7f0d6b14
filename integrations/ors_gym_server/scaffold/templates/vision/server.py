"""Serve the pictures: ``python server.py``, and on the reference SDK's server: ``python server.py --sdk``."""

from __future__ import annotations

from ors_gym.types import Block, Task, TextBlock, ToolOutput
from ors_gym_server import Environment, main, tool
from pydantic import BaseModel, Field

from drawing import close_up, overview
from tasks import SEEDS, SIZE, scene, tasks


class Cell(BaseModel):
    """The input of the tool ``zoom``."""

    row: int = Field(ge=1, le=SIZE, description="counted from the top")
    column: int = Field(ge=1, le=SIZE, description="counted from the left")


class Answer(BaseModel):
    """The input of the tool ``answer``."""

    count: int = Field(ge=0, le=SIZE * SIZE)


class MyEnvironment(Environment):
    """Count things in an image. An instance is one episode of one task."""

    # ---- class methods: splits and tasks

    @classmethod
    def list_splits(cls) -> list[str]:
        """The splits of the tasks."""
        return list(SEEDS)

    @classmethod
    def list_tasks(cls, split: str) -> list[Task]:
        """The tasks of a split, always in the same order."""
        return tasks(split)

    # ---- an episode

    def setup(self) -> None:
        """Prepare the episode."""
        self.scene = scene(self.task_spec["seed"])

    def get_prompt(self) -> list[Block]:
        """The first message to the agent: texts and images in reading order."""
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
        message = "That is right." if params.count == count else f"That is not right: there are {count}."
        return ToolOutput((TextBlock(message),), reward=float(params.count == count), finished=True)


if __name__ == "__main__":
    main(MyEnvironment)
