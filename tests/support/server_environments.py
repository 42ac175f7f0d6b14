"""Environments for the server's tests: one with everything the reference SDK offers, and some of our own."""

from __future__ import annotations

import asyncio
import collections
import threading
from typing import ClassVar

import tests.support.ors_servers  # noqa: F401  (first: it silences the SDK's log, which is set up on import)

# isort: split
from openreward.environments import Environment, ImageBlock, Split, TextBlock, ToolOutput, Toolset, terminal, tool
from openreward.environments.types import (
    ListToolsOutput,
    Message,
    ReasoningBlock,
    ToolCallBlock,
    ToolResultBlock,
    ToolSpec,
)
from pydantic import BaseModel, Field

import ors_gym_server
from ors_gym import types as ors
from tests.support.environments import PIXEL


class Cut(BaseModel):
    length: int = Field(ge=1, le=100, description="centimetres")
    kind: str = "straight"


class Note(BaseModel):
    text: str


class Given(BaseModel):
    reward: str = "0"
    text: str = ""


class Drawers:
    """A toolset whose constructor takes nothing."""

    def __init__(self) -> None:
        self.opened = 0

    @tool
    async def open_drawer(self) -> ToolOutput:
        """Open the next drawer."""
        self.opened += 1
        return ToolOutput(blocks=[TextBlock(text=f"drawer {self.opened}")])


class Bench(Toolset):
    """A toolset on the environment's sandbox."""

    @tool
    def clamp(self, params: Note) -> ToolOutput:
        """Clamp something to the bench."""
        return ToolOutput(blocks=[TextBlock(text=f"{params.text} on {self.sandbox}")])


class Extras(Toolset):
    """A toolset that a client asks for by name. One of its tools takes the place of the environment's."""

    @tool
    async def saw(self, params: Note) -> ToolOutput:
        """Saw by hand."""
        return ToolOutput(blocks=[TextBlock(text=f"{params.text} by hand, on {self.sandbox}")])

    @tool
    def varnish(self) -> ToolOutput:
        """Varnish."""
        return ToolOutput(blocks=[], finished=True)

    @terminal
    @tool
    def sign(self) -> ToolOutput:
        """Sign it."""
        return ToolOutput(blocks=[], reward=1.0, finished=True)


class Workshop(Environment):
    """Everything that the reference SDK has, in one class."""

    toolsets = (Drawers, Bench)

    def __init__(self, task_spec={}, secrets={}):  # noqa: B006
        super().__init__(task_spec, secrets)
        self.sandbox = "oak"
        self.secrets = secrets
        self.log = []

    async def setup(self):
        self.log.append("set up")

    @classmethod
    def list_splits(cls):
        return ["train", Split(name="hard", type="test"), "odd"]

    @classmethod
    async def list_tasks(cls, split):
        return [{"id": f"{split}-{i}", "nested": {"i": [i, None, 1.5]}} for i in range(7 if split == "train" else 2)]

    async def get_messages(self):
        return [
            Message(role="system", blocks=[TextBlock(text="Work.", detail={"cache": True})], detail={"a": 1}),
            Message(role="user", blocks=[ImageBlock(data=PIXEL, mimeType="image/png"), TextBlock(text="this")]),
            Message(role="assistant", blocks=[ReasoningBlock(text="hm"), ToolCallBlock(id="1", name="saw", input={})]),
            Message(role="user", blocks=[ToolResultBlock(tool_call_id="1", blocks=[TextBlock(text="ok")])]),
        ]

    @tool
    async def saw(self, params: Cut) -> ToolOutput:
        """Saw a piece off."""
        self.log.append(f"saw {params.length}")
        return ToolOutput(
            blocks=[TextBlock(text=" ".join(self.log), detail={"n": 1})], reward=0.5, metadata={"x": None}
        )

    @tool(concurrent=True)
    def measure(self) -> ToolOutput:
        """Measure."""
        return ToolOutput(
            blocks=[TextBlock(text="a\u2028b\u0085c\u3000 d"), ImageBlock(data=PIXEL, mimeType="image/png")]
        )

    @tool(exclusive=True)
    async def ship(self) -> ToolOutput:
        """Ship it."""
        return ToolOutput(blocks=[], reward=1, finished=True, metadata={"secret": bool(self.secrets.get("KEY"))})

    @tool
    def saw_badly(self) -> ToolOutput:
        """Fail."""
        raise ValueError("the saw\nbroke")

    @tool
    def wrong(self) -> ToolOutput:
        """Return something else."""
        return "text"  # type: ignore[return-value]

    @tool
    def no_tool(self, a: Note, b: Note) -> ToolOutput:
        """Have too many arguments for a tool."""
        raise AssertionError

    @property
    def price(self) -> float:
        raise AssertionError("an agent made a property run")

    @tool(shared=False)
    def polish(self, params: Note) -> ToolOutput:
        """Polish."""
        return ToolOutput(blocks=[TextBlock(text=f"{'shiny ' * 3000}{params.text}")])

    @terminal
    @tool
    def hand_over(self, params: Note) -> ToolOutput:
        """Hand the work over."""
        return ToolOutput(blocks=[TextBlock(text=params.text)], reward=0.25, finished=True)

    def list_task_tools(self):
        schema = Note.model_json_schema()
        return ListToolsOutput(tools=[ToolSpec(name="polish", description="Polish.", input_schema=schema)])

    async def score_group(self, candidates):
        return [float(len(candidate.messages)) for candidate in candidates]


class Large(Environment):
    """Has too many tasks to list them."""

    @classmethod
    def list_splits(cls):
        return ["train"]

    @classmethod
    def list_tasks(cls, split):
        raise NotImplementedError

    @classmethod
    async def num_tasks(cls, split):
        return 10**9

    @classmethod
    async def get_task(cls, split, index):
        if not 0 <= index < 10**9:
            raise IndexError(index)
        return {"n": index}

    def get_prompt(self):
        return [TextBlock(text=str(self.task_spec["n"]))]

    @tool
    def nothing(self) -> ToolOutput:
        """Do nothing."""
        return ToolOutput(blocks=[])


class Forge(ors_gym_server.Environment):
    """One of our own, which can be held, broken and watched."""

    log: ClassVar[list[str]] = []
    released: ClassVar[dict[str, threading.Event]] = collections.defaultdict(threading.Event)
    started: ClassVar[dict[str, threading.Event]] = collections.defaultdict(threading.Event)
    executions: ClassVar[collections.Counter[str]] = collections.Counter()

    @classmethod
    def list_splits(cls):
        return ["train", ors.Split("held-out", "test")]

    @classmethod
    def list_tasks(cls, split):
        return [{"name": name} for name in ("plain", "slow", "broken", "stuck")]

    @property
    def task_name(self) -> str:
        return str(self.task_spec["name"])

    def setup(self):
        self.thread = threading.get_ident()
        if self.task_name == "slow":
            self.started["setup"].set()
            assert self.released["setup"].wait(30)
        if self.task_name == "broken":
            raise RuntimeError(f"no fire with {self.secrets}")

    def teardown(self):
        self.log.append(f"teardown of {self.task_name}")

    def get_prompt(self):
        return "Forge."

    @ors_gym_server.tool
    async def hit(self, params: Note) -> ors.ToolOutput:
        """Hit the iron."""
        self.executions[params.text] += 1
        return ors.ToolOutput((ors.TextBlock(params.text),), reward=1.0, metadata={"n": 1})

    @ors_gym_server.tool
    async def hold(self, params: Note) -> ors.ToolOutput:
        """Hold it until it is released."""
        self.executions[params.text] += 1
        self.started[params.text].set()
        while not self.released[params.text].is_set():
            await asyncio.sleep(0.005)
        return ors.ToolOutput((ors.TextBlock("held"),))

    @ors_gym_server.tool
    def grip(self, params: Note) -> ors.ToolOutput:
        """Hold it, and the thread."""
        self.executions[params.text] += 1
        self.started[params.text].set()
        assert self.released[params.text].wait(30)
        return ors.ToolOutput((ors.TextBlock(str(threading.get_ident() == self.thread)),))

    @ors_gym_server.tool(concurrent=True)
    def meet(self, params: Note) -> str:
        """Wait for the other half."""
        mine, other = params.text, "b" if params.text == "a" else "a"
        self.started[mine].set()
        assert self.started[other].wait(30)
        self.log.append(f"met {other}")
        return mine

    @ors_gym_server.tool
    def reward(self, params: Given) -> ors.ToolOutput:
        """Give what it is given."""
        return ors.ToolOutput((ors.TextBlock(params.text),), reward=float(params.reward))

    @ors_gym_server.tool
    def blunder(self, params: Note) -> ors.ToolOutput:
        """Return what no type checker lets pass."""
        return {
            "blocks": ors.ToolOutput("hello"),
            "reward": ors.ToolOutput((), reward="high"),
            "dict": {"reward": 1.0},
        }[params.text]

    @ors_gym_server.tool
    def count(self) -> str:
        """Return a number instead."""
        return 5

    @ors_gym_server.tool
    def mangle(self) -> str:
        """Break a character in two."""
        return "\ud83d"

    @ors_gym_server.tool
    async def quit(self) -> ors.ToolOutput:
        """Raise what it should not."""
        raise asyncio.CancelledError("gone")

    @ors_gym_server.tool
    async def leave(self) -> ors.ToolOutput:
        """Try to end the process."""
        raise SystemExit("bye")

    @ors_gym_server.tool
    def leave_thread(self) -> ors.ToolOutput:
        """Try to end the process from its thread."""
        raise SystemExit("bye")

    @ors_gym_server.tool
    def betray(self) -> ors.ToolOutput:
        """Fail with the secrets in the message."""
        raise RuntimeError(f"the secrets are {self.secrets}, and here is more: {'x' * 50_000}")

    @classmethod
    def forget(cls) -> None:
        cls.log.clear()
        cls.executions.clear()
        cls.released.clear()
        cls.started.clear()


class Grudge(Forge):
    """It spoils its own task, holds up its constructor, and ends as the task says."""

    @classmethod
    def list_splits(cls):
        return ["train", "stream"]

    @classmethod
    def list_tasks(cls, split):
        tasks = [{"name": "plain", "answer": {"is": "here"}}]
        return iter(tasks) if split == "stream" else tasks

    def __init__(self, task_spec, secrets=None):
        super().__init__(task_spec, secrets)
        self.task_spec.setdefault("answer", {}).pop("is", None)  # type: ignore[attr-defined]
        if self.task_name == "slow":
            self.started["constructor"].set()
            assert self.released["constructor"].wait(30)
            raise RuntimeError("no")

    def get_prompt(self):
        return str(self.task_spec)

    def teardown(self):
        super().teardown()
        match self.task_name:
            case "leave":
                raise SystemExit("bye")
            case "late":
                raise TimeoutError("the sandbox does not answer")
