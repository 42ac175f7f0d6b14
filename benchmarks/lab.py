"""The reference server with an environment whose set-up and tool take a given time: ``lab.py PORT``."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

os.environ["OPENREWARD_LOG_LEVEL"] = "CRITICAL"  # read when the SDK is imported

import uvicorn
from openreward.environments import Environment, Server, TextBlock, ToolOutput, tool
from pydantic import BaseModel

SETUP_SECONDS = (0.0, 0.2)
"""Of the tasks."""
CALLS = 5
"""In an episode."""


class Work(BaseModel):
    """Seconds to work."""

    seconds: float = 0.0


class Lab(Environment):
    """Work, five times."""

    def __init__(self, task_spec: Any = {}, secrets: Any = {}) -> None:  # noqa: B006  (the SDK's signature)
        super().__init__(task_spec, secrets)
        self.calls = 0

    @classmethod
    def list_splits(cls) -> list[str]:
        """One split."""
        return ["train"]

    @classmethod
    def list_tasks(cls, split: str) -> list[dict[str, float]]:
        """One task for each time of set-up."""
        return [{"setup_seconds": seconds} for seconds in SETUP_SECONDS]

    async def setup(self) -> None:
        """Take the task's set-up time."""
        await asyncio.sleep(self.task_spec["setup_seconds"])

    def get_prompt(self) -> list[TextBlock]:
        """The same for every task."""
        return [TextBlock(text="Work.")]

    @tool
    async def work(self, params: Work) -> ToolOutput:
        """Take the time given in the call."""
        await asyncio.sleep(params.seconds)
        self.calls += 1
        return ToolOutput(blocks=[TextBlock(text="worked")], reward=1.0, finished=self.calls == CALLS)


if __name__ == "__main__":
    uvicorn.run(Server([Lab]).app, host="127.0.0.1", port=int(sys.argv[1]), log_level="critical", access_log=False)
