"""Environments that the Gymnasium tests play, written for the reference SDK."""

from __future__ import annotations

import asyncio
import base64
import io
import signal
import threading

from openreward.environments import Environment, ImageBlock, Split, TextBlock, ToolOutput, terminal, tool
from openreward.environments.types import ListToolsOutput, ToolSpec
from PIL import Image
from pydantic import BaseModel, Field

from tests.support.environments import OneTask


def picture(colour: str) -> str:
    """A PNG of 4 by 2 pixels, in base64."""
    file = io.BytesIO()
    Image.new("RGB", (4, 2), colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


class Steps(BaseModel):
    steps: int = Field(ge=1, le=3)


class Walk(Environment):
    """Walk to the task's goal: 1.0 for reaching it, and the episode ends. Ten tasks: the goal is 2, 3, … 11 away."""

    def __init__(self, task_spec={}, secrets={}):  # noqa: B006
        super().__init__(task_spec, secrets)
        self.place = 0
        self.goal = int(task_spec["goal"])

    @classmethod
    def list_splits(cls):
        return [Split(name="exam", type="test"), Split(name="practice", type="train"), Split(name="none", type="test")]

    @classmethod
    def list_tasks(cls, split):
        return {"exam": [{"goal": 40}], "practice": [{"goal": goal} for goal in range(2, 12)], "none": []}[split]

    def get_prompt(self):
        return [TextBlock(text=f"Walk {self.goal} steps."), ImageBlock(data=picture("red"), mimeType="image/png")]

    def list_task_tools(self):
        return ListToolsOutput(tools=[ToolSpec(name=f"jump_{self.goal}", description="", input_schema=None)])

    @tool
    def walk(self, params: Steps) -> ToolOutput:
        """Walk on."""
        self.place += params.steps
        there = self.place >= self.goal
        blocks = [TextBlock(text=f"at {self.place} of {self.goal}")]
        return ToolOutput(blocks=blocks, reward=1.0 if there else None, finished=there)

    @tool
    def look(self) -> ToolOutput:
        """Look around."""
        blocks = [TextBlock(text="trees"), ImageBlock(data=picture("blue"), mimeType="image/png")]
        return ToolOutput(blocks=blocks, reward=0.0, metadata={"place": self.place})


class Words(BaseModel):
    text: str


class Quiz(OneTask):
    """One question; the plain answer goes to the terminal tool."""

    asks = "What is 2 + 2?"

    @terminal
    @tool
    def answer(self, params: Words) -> ToolOutput:
        """Grade the answer; the reference sets no ``finished`` here."""
        return ToolOutput(blocks=[TextBlock(text="graded")], reward=float(params.text == "4"))


class Faulty(Environment):
    """Breaks as the task says: ``setup``, or the tool ``act`` on the call that ``fail_at`` names."""

    setups: list[str] = []  # noqa: RUF012
    """The names of the tasks that were set up, in order."""
    fails_left: dict[str, int] = {}  # noqa: RUF012
    """How often each task still fails, by name; absent: always."""

    def __init__(self, task_spec={}, secrets={}):  # noqa: B006
        super().__init__(task_spec, secrets)
        self.calls = 0
        self.name = task_spec["name"]

    @classmethod
    def list_splits(cls):
        return ["train", "stuck", "partly broken"]

    @classmethod
    def list_tasks(cls, split):
        if split == "stuck":
            return [{"name": "hangs", "hang_at": 1}, {"name": "sound"}]
        if split == "partly broken":
            return [{"name": "never starts", "fail_at": 0}, *[{"name": "sound"}] * 3]
        return [
            {"name": "sound"},
            {"name": "breaks at once", "fail_at": 1},
            {"name": "breaks later", "fail_at": 2},
            {"name": "never starts", "fail_at": 0},
        ]

    def breaks(self, at):
        if self.task_spec.get("fail_at") != at:
            return False
        left = Faulty.fails_left.get(self.name)
        if left is not None:
            Faulty.fails_left[self.name] = left - 1
        return left is None or left > 0

    def setup(self):
        Faulty.setups.append(self.name)
        self.released = asyncio.Event()

    async def teardown(self):
        self.released.set()

    def get_prompt(self):
        if self.breaks(0):
            raise RuntimeError("no prompt today")
        return [TextBlock(text=self.name)]

    @tool
    async def act(self) -> ToolOutput:
        """Do something; the third time ends the episode."""
        self.calls += 1
        if self.task_spec.get("hang_at") == self.calls:
            await self.released.wait()
        if self.breaks(self.calls):
            raise RuntimeError("something broke")
        return ToolOutput(blocks=[TextBlock(text=f"act {self.calls}")], reward=1.0, finished=self.calls == 3)


class Meeting(Environment):
    """Calls that wait for one another: they only come back when they are made at the same time."""

    arrived: dict[str, int] = {}  # noqa: RUF012
    complete: dict[str, asyncio.Event] = {}  # noqa: RUF012

    @classmethod
    def list_splits(cls):
        return ["train"]

    @classmethod
    def list_tasks(cls, split):
        return [{"place": "office", "parties": 4}, {"place": "arena", "parties": 256}]

    async def meet(self, what):
        place = f"{what} {self.task_spec['place']}"
        Meeting.arrived[place] = Meeting.arrived.get(place, 0) + 1
        event = Meeting.complete.setdefault(place, asyncio.Event())
        if Meeting.arrived[place] == self.task_spec["parties"]:
            Meeting.arrived[place] = 0
            Meeting.complete.pop(place).set()
        await event.wait()

    async def get_prompt(self):
        await self.meet("before")
        return [TextBlock(text="Met.")]

    @tool
    async def gather(self) -> ToolOutput:
        """Come back when all parties have called."""
        await self.meet("at")
        return ToolOutput(blocks=[TextBlock(text="met")], reward=1.0)


class Kitchen(OneTask):
    """Dishes that take until somebody rings the bell; the others go on meanwhile."""

    asks = "Cook."
    bell: asyncio.Event | None = None

    @tool
    async def bake(self) -> ToolOutput:
        """Wait for the bell."""
        if Kitchen.bell is None:
            Kitchen.bell = asyncio.Event()
        await Kitchen.bell.wait()
        return ToolOutput(blocks=[TextBlock(text="baked")], reward=2.0, finished=True)

    @tool
    def stir(self) -> ToolOutput:
        """Stir, at once."""
        return ToolOutput(blocks=[TextBlock(text="stirred")], reward=1.0)

    @tool
    async def press_ctrl_c(self) -> ToolOutput:
        """Interrupt the main thread of this process, where the test waits, and do not come back."""
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return await self.bake()

    @tool
    def ring(self) -> ToolOutput:
        """Ring the bell."""
        if Kitchen.bell is not None:
            Kitchen.bell.set()
            Kitchen.bell = None
        return ToolOutput(blocks=[TextBlock(text="ding")])

    async def teardown(self):
        self.ring()
