"""The server in each replica of the tests and the benchmark on Ray Serve."""

from __future__ import annotations

import asyncio
import os

from pydantic import BaseModel

from ors_gym.types import TextBlock, ToolOutput
from ors_gym_server import Limits, create_app, tool
from ors_gym_server.asgi.app import ORSApp
from tests.support.task_environments import Numbered

__all__ = ["app_factory"]


class Pace(BaseModel):
    """How long a piece of work takes."""

    seconds: float = 0.05


class Bench(Numbered):
    """Counts to twelve, and can end its process."""

    count = 0

    num_tasks_of_train = 100

    @tool
    async def work(self, params: Pace) -> ToolOutput:
        """One more."""
        self.count += 1
        await asyncio.sleep(params.seconds)
        return ToolOutput((TextBlock(str(self.count)),), reward=1.0, finished=self.count >= 12)

    @tool
    async def wait(self) -> str:
        """Never end."""
        await asyncio.Event().wait()
        raise AssertionError

    @tool
    async def burst(self) -> str:
        """Take the process along."""
        os._exit(3)


def app_factory() -> ORSApp:
    """As an environment author writes it."""
    return create_app([Bench], limits=Limits(header_seconds=5.0))
