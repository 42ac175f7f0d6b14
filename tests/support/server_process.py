"""A server of our own in its own process: ``python -m tests.support.server_process DRAIN_SECONDS``.

It says what it does.
"""

from __future__ import annotations

import asyncio
import sys

from ors_gym.types import TextBlock, ToolOutput
from ors_gym_server import serve, tool
from tests.support.task_environments import Numbered


class Kiln(Numbered):
    """Burns until it is told that it is enough, or for ever."""

    async def teardown(self) -> None:
        """Say so."""
        print(f"teardown {self.task_spec['n']}", flush=True)

    @tool
    async def burn(self) -> ToolOutput:
        """Burn for a while that outlasts the signal."""
        print("burning", flush=True)
        await asyncio.sleep(0.5)
        return ToolOutput((TextBlock("burnt"),), reward=1.0)

    @tool
    async def smoulder(self) -> ToolOutput:
        """Burn for ever."""
        print("smouldering", flush=True)
        await asyncio.Event().wait()
        raise AssertionError


if __name__ == "__main__":
    serve([Kiln], port=0, drain_seconds=float(sys.argv[1]), started=lambda url: print(url, flush=True))
