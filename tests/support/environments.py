"""Small environments that several test files talk to, written for the reference SDK."""

from __future__ import annotations

import asyncio
import base64
import collections
import threading
import time
from typing import Any, ClassVar

import tests.support.ors_servers  # noqa: F401  (first: it silences the SDK's log, which is set up on import)

# isort: split
from openreward.environments import Environment, ImageBlock, Split, TextBlock, ToolOutput, terminal, tool
from openreward.environments.types import GroupScore, ListToolsOutput, Message, ToolSpec
from pydantic import BaseModel

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


class Amount(BaseModel):
    amount: int = 1


class Text(BaseModel):
    text: str


class Counter(Environment):
    """Counts to the task's target. Reaching it gives 1.0 and ends the episode; passing it gives 0.0 and ends it."""

    def __init__(self, task_spec={}, secrets={}):  # noqa: B006
        super().__init__(task_spec, secrets)
        self.count = 0
        self.target = int(task_spec["target"])

    @classmethod
    def list_splits(cls):
        return [Split(name="train", type="train"), Split(name="test", type="test")]

    @classmethod
    def list_tasks(cls, split):
        return [{"id": f"{split}-{target}", "target": target} for target in (range(1, 6) if split == "train" else (7,))]

    def get_prompt(self):
        return [TextBlock(text=f"Count to {self.target}.")]

    @tool
    def add(self, params: Amount) -> ToolOutput:
        """Add to the count."""
        self.count += params.amount
        finished = self.count >= self.target
        reward = None if not finished else float(self.count == self.target)
        return ToolOutput(blocks=[TextBlock(text=f"count {self.count}")], reward=reward, finished=finished)

    @tool
    def look(self) -> ToolOutput:
        """Look at the count, as text and as a picture."""
        blocks = [TextBlock(text=f"count {self.count}"), ImageBlock(data=PIXEL, mimeType="image/png")]
        return ToolOutput(blocks=blocks, reward=0.0, metadata={"count": self.count})

    @tool
    def echo(self, params: Text) -> ToolOutput:
        """Say it again."""
        return ToolOutput(blocks=[TextBlock(text=params.text)])

    @tool
    def crash(self) -> ToolOutput:
        """Fail."""
        raise RuntimeError("the counter broke")


class Work(BaseModel):
    key: str
    text: str = "done"
    held: bool = False
    seconds: float = 0.0


class Ledger(Environment):
    """Counts how often each call ran, by the key it was sent with. Held calls wait until they are released."""

    executions: ClassVar[collections.Counter[str]] = collections.Counter()
    started: ClassVar[dict[str, threading.Event]] = collections.defaultdict(threading.Event)
    released: ClassVar[dict[str, asyncio.Event]] = collections.defaultdict(asyncio.Event)
    constructions: ClassVar[int] = 0
    open_gate: ClassVar[threading.Event | None] = None

    def __init__(self, task_spec={}, secrets={}):  # noqa: B006
        super().__init__(task_spec, secrets)
        self.secrets = secrets
        type(self).constructions += 1
        if self.open_gate is not None and task_spec.get("slow"):
            self.open_gate.wait(30)

    @classmethod
    def list_splits(cls):
        return ["train"]

    @classmethod
    def list_tasks(cls, split):
        return [{"id": 0}, {"id": 1, "slow": True}]

    def get_prompt(self):
        return [TextBlock(text="Work.")]

    @tool(concurrent=True)
    async def work(self, params: Work) -> ToolOutput:
        """Work, and be counted."""
        self.executions[params.key] += 1
        released = self.released[params.key]
        self.started[params.key].set()
        if params.held:
            await released.wait()
        await asyncio.sleep(params.seconds)
        return ToolOutput(blocks=[TextBlock(text=params.text)], reward=1.0)

    @tool(concurrent=True)
    async def block(self, params: Work) -> ToolOutput:
        """Hold up the whole server, as one badly written tool can."""
        self.started[params.key].set()
        time.sleep(params.seconds)
        return ToolOutput(blocks=[TextBlock(text=params.text)])

    @tool
    async def reveal(self) -> ToolOutput:
        """Fail with every secret in the message."""
        raise RuntimeError(f"the secrets are {self.secrets}")

    @tool
    async def cancelled(self) -> ToolOutput:
        """Raise what a cancelled task raises."""
        raise asyncio.CancelledError("gone")


class Given(BaseModel):
    blocks: list[dict[str, Any]]
    reward: float | None = None
    finished: bool = False
    metadata: dict[str, Any] | None = None


class Mirror(Environment):
    """Gives back whatever it is given: blocks, rewards, metadata, prompts, tasks, secrets."""

    @classmethod
    def list_splits(cls):
        return ["train"]

    @classmethod
    def list_tasks(cls, split):
        return [{"text": "task"}]

    def get_prompt(self):
        return [TextBlock(text=self.task_spec.get("text", ""))]

    def get_messages(self):
        return [
            Message(role="system", blocks=[TextBlock(text="rules")]),
            Message(role="user", blocks=self.get_prompt()),
        ]

    @tool
    def give(self, params: Given) -> ToolOutput:
        """Give it back."""
        return ToolOutput.model_validate(params.model_dump())

    @tool(shared=False)
    def task_only(self) -> ToolOutput:
        """Exist in sessions only."""
        return ToolOutput(blocks=[])

    @terminal
    @tool
    def submit(self, params: Text) -> ToolOutput:
        """Take the final message."""
        return ToolOutput(blocks=[TextBlock(text=params.text)], reward=1.0, finished=True)

    def list_task_tools(self):
        return ListToolsOutput(tools=[ToolSpec(name="task_only", description="", input_schema=None)])

    async def score_group(self, candidates):
        if any(not candidate.messages for candidate in candidates):
            raise RuntimeError("an empty candidate")
        lengths = [sum(len(block.text) for block in candidate.messages[-1].blocks) for candidate in candidates]
        return [GroupScore(reward=float(length), metadata={"of": len(lengths)}) for length in lengths]


class OneTask(Environment):
    """One task with nothing in it, and a sentence to begin with."""

    asks: ClassVar[str]

    @classmethod
    def list_splits(cls):
        return ["train"]

    @classmethod
    def list_tasks(cls, split):
        return [{}]

    def get_prompt(self):
        return [TextBlock(text=self.asks)]


class Essay(OneTask):
    """Wants one message and has no other tool."""

    asks = "Write."

    @terminal
    @tool
    def hand_in(self) -> ToolOutput:
        """Take the essay, unread."""
        return ToolOutput(blocks=[TextBlock(text="thank you")], reward=1.0, finished=True)
