"""A server of several processes: ``python -m tests.support.worker_server NUM_WORKERS``. It says what happens in it."""

from __future__ import annotations

import asyncio
import os
import sys

from ors_gym_server import serve, tool
from tests.support.task_environments import Numbered


class Mill(Numbered):
    """Knows in which process it is, and can end it."""

    num_tasks_of_train = 8

    async def teardown(self) -> None:
        """Say so."""
        print(f"teardown {self.task_spec['n']}\n", end="", flush=True)  # in one write: other processes print too

    @tool
    async def where(self) -> str:
        """Say in which process."""
        return str(os.getpid())

    @tool
    async def grind(self) -> str:
        """Take a while that outlasts a signal."""
        print("grinding\n", end="", flush=True)
        await asyncio.sleep(0.5)
        return "flour"

    @tool
    async def wait(self) -> str:
        """Never end, unless it is cancelled: then say so."""
        await asyncio.Event().wait()
        raise AssertionError

    @tool
    async def burst(self) -> str:
        """Take the process along."""
        os._exit(3)


if __name__ == "__main__":
    serve([Mill], port=0, workers=int(sys.argv[1]), started=lambda url: print(url, flush=True))
