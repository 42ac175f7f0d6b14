"""A server whose environment computes in a pool of processes: ``python -m tests.support.pool_server NUM_WORKERS``."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from ors_gym_server import Limits, serve, tool
from tests.support.task_environments import Numbered

POOL: list[ProcessPoolExecutor] = []


class Quarry(Numbered):
    """Has work done elsewhere."""

    @tool
    def dig(self) -> str:
        """Start work that never ends; returns the ids of the processes."""
        if not POOL:
            POOL.append(ProcessPoolExecutor(8, mp_context=multiprocessing.get_context("fork")))
        digger = POOL[0].submit(os.getpid).result()
        POOL[0].submit(time.sleep, 3600)
        return str(digger)

    @tool
    def leave(self) -> str:
        """Leave a program behind that loses its parent; returns its id."""
        command = "sleep 0.2 >/dev/null & echo $!"
        return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    serve(
        [Quarry],
        port=0,
        limits=Limits(teardown_seconds=1.0),
        drain_seconds=1.0,
        workers=int(sys.argv[1]),
        started=lambda url: print(url, flush=True),
    )
