"""What idle sessions cost: CPU and memory of one process that keeps thousands of them alive.

``python benchmarks/idle_sessions.py [--sessions 5000] [--seconds 65]``
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import subprocess
import sys
import time
from pathlib import Path

from ors_gym.client.client import ORSClient


def resident_megabytes() -> float:
    """This process's memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


async def main(url: str, sessions: int, seconds: float) -> None:
    """Open the sessions, leave them alone, and say what that cost."""
    before = resident_megabytes()
    async with ORSClient(url, max_connections=256) as client:
        opened = [client.session("stub", split="train", index=0) for _ in range(sessions)]
        started = time.process_time()
        await asyncio.gather(*(session.open() for session in opened))
        opening = (time.process_time() - started) / sessions * 1000
        memory = resident_megabytes()
        cpu, wall = time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(f"{sessions} sessions: opening {opening:.2f} ms CPU each")
        print(f"idle for {wall:.0f} s: {100 * cpu / wall:.1f} % of a core, {memory:.0f} MB (+{memory - before:.0f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=65.0)
    options = parser.parse_args()
    stub = [sys.executable, str(Path(__file__).with_name("stub_server.py"))]
    with subprocess.Popen(stub, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        asyncio.run(main(url, options.sessions, options.seconds))
        server.stdin.close()
