"""The environment of the table on our server or on the reference's, as a program: prints its URL."""

from __future__ import annotations

import asyncio
import collections
import sys
from typing import ClassVar

import tests.support.ors_servers  # noqa: F401  (first: it silences the SDK's log, which is set up on import)

# isort: split
import uvicorn
from openreward.environments import Environment, Server, TextBlock, ToolOutput, tool
from pydantic import BaseModel

from ors_gym_server import serve
from tests.support.ors_servers import free_port


class Wait(BaseModel):
    seconds: float
    key: str


class Key(BaseModel):
    key: str


class Size(BaseModel):
    size: int


class Bench(Environment):
    """Waits, and counts how often it was asked to."""

    executions: ClassVar[collections.Counter[str]] = collections.Counter()

    @classmethod
    def list_splits(cls):
        return ["train"]

    @classmethod
    def list_tasks(cls, split):
        return [{"number": number} for number in range(64)]

    def get_prompt(self):
        return [TextBlock(text=f"task {self.task_spec['number']}")]

    @tool
    async def wait(self, params: Wait) -> ToolOutput:
        """Wait."""
        self.executions[params.key] += 1
        await asyncio.sleep(params.seconds)
        return ToolOutput(blocks=[TextBlock(text="done")], reward=1.0)

    @tool
    async def runs(self, params: Key) -> ToolOutput:
        """How often a wait began."""
        return ToolOutput(blocks=[TextBlock(text=str(self.executions[params.key]))])

    @tool
    async def large(self, params: Size) -> ToolOutput:
        """Say much."""
        return ToolOutput(blocks=[TextBlock(text="x" * params.size)])


if __name__ == "__main__":
    if sys.argv[1] == "ors-gym":
        serve([Bench], port=0, allowed_hosts=["ors.test"], started=lambda url: print(url, flush=True))
    else:
        port = free_port()
        print(f"http://127.0.0.1:{port}", flush=True)
        uvicorn.run(Server([Bench]).app, port=port, log_level="critical")
