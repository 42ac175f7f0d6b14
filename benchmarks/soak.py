"""A server under many calls, a fifth of whose clients disappear: memory, descriptors and remaining sessions.

    python benchmarks/soak.py [--calls 200000] [--abandoned 0.2] [--clients 32] [--session-seconds 10]
    python benchmarks/soak.py --rate 80 --warm-up 960 --session-seconds 900

Each client opens a session and makes 50 calls. One that disappears breaks its connection during a call and never
deletes its session, which the server closes after ``--session-seconds`` without a request. All other limits have their
defaults. A server whose memory is the same at the end leaks nothing. Results are kept for a limited time: the second
command lets that time pass first, with all default limits.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "integrations"))
sys.path.insert(0, str(Path(__file__).parent.parent))

from ors_gym import ORSClient
from ors_gym.http.asyncio_transport import AsyncioTransport
from ors_gym_server import Environment, Limits, serve, tool

CALLS_PER_SESSION = 50
CALL = b'{"name": "count", "input": {}}'


class Post(Environment):
    """Counts its sessions."""

    alive = 0

    @classmethod
    def list_splits(cls) -> list[str]:
        """One split."""
        return ["train"]

    @classmethod
    def list_tasks(cls, split: str) -> list[dict[str, int]]:
        """One task."""
        return [{}]

    def get_prompt(self) -> str:
        """The same for every task."""
        return "Go."

    async def setup(self) -> None:
        """Register the session."""
        Post.alive += 1

    async def teardown(self) -> None:
        """Unregister the session."""
        Post.alive -= 1

    @tool
    async def count(self) -> str:
        """Return the number of sessions."""
        await asyncio.sleep(0)
        return str(Post.alive)


def resident(pid: int) -> tuple[float, int]:
    """A process's resident memory in MiB, and its open descriptors."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return kib / 1024, len(os.listdir(f"/proc/{pid}/fd"))


class Soak:
    """The clients. ``rate`` is the maximum of calls per second."""

    def __init__(self, url: str, pid: int, calls: int, abandoned: float, rate: float) -> None:
        self.url, self.pid, self.calls, self.abandoned = url, pid, calls, abandoned
        self.pause = 1 / rate
        self.made = self.left = 0
        self.next = 0.0
        """When the next call is due."""
        self.marks = [0.01, 0.1, 0.25, 0.5, 0.75, 1.0]
        self.began = time.monotonic()
        self.random = random.Random(0)

    async def client(self) -> None:
        """Run one client after another until enough calls were made."""
        while self.made < self.calls:
            leaves = self.random.random() < self.abandoned
            transport = AsyncioTransport(connect_seconds=60.0)
            opened = await self.ask(transport, "/create_session", {}, b"")
            headers = {"X-Session-ID": re.findall(rb"data: (\S+)", opened)[0].decode()}
            task = b'{"env_name": "post", "split": "train", "index": 0}'
            await self.ask(transport, "/create", headers, task)
            for _ in range(self.random.randrange(CALLS_PER_SESSION) if leaves else CALLS_PER_SESSION):
                await self.turn()
                assert b'"ok":true' in await self.ask(transport, "/call", headers, CALL)
                self.count()
            if leaves:
                self.left += 1
                call = asyncio.create_task(self.ask(transport, "/call", headers, CALL))
                await asyncio.sleep(self.random.random() / 500)  # before, in or after the call
                await transport.aclose()
                await asyncio.gather(call, return_exceptions=True)
            else:
                await self.ask(transport, "/delete", headers, b"")
                await transport.aclose()

    async def ask(self, transport: AsyncioTransport, path: str, headers: dict[str, str], body: bytes) -> bytes:
        """Send one request."""
        async with transport.send("POST", self.url + path, headers, body) as answer:
            return await answer.read()

    async def turn(self) -> None:
        """Wait until another call is due."""
        now = time.monotonic()
        self.next = max(now, self.next + self.pause)
        if self.next > now:
            await asyncio.sleep(self.next - now)

    def count(self) -> None:
        """Count a call, and print the server's state at each mark."""
        self.made += 1
        if self.marks and self.made >= self.marks[0] * self.calls:
            self.print(f"{self.marks.pop(0):.0%}")

    def print(self, when: str, sessions: str = "") -> None:
        """One line of the table."""
        memory, descriptors = resident(self.pid)
        rate = self.made / (time.monotonic() - self.began)
        counts = f"{self.made:>9,} {self.left:>9,} {memory:>8.1f} {descriptors:>12} {rate:>8.0f}"
        print(f"{when:>12} {counts} {sessions}", flush=True)


async def soak(url: str, pid: int, arguments: argparse.Namespace) -> None:
    """Print the table."""
    clients = arguments.clients
    print(f"{arguments.abandoned:.0%} of the clients leave; results kept {Limits().max_kept_seconds:g} s, ", end="")
    print(f"sessions {arguments.session_seconds:g} s")
    print(f"{'at':>12} {'calls':>9} {'left':>9} {'MiB':>8} {'descriptors':>12} {'calls/s':>8} sessions")
    run = Soak(url, pid, int(arguments.warm_up * arguments.rate), arguments.abandoned, arguments.rate)
    run.marks = []
    if arguments.warm_up:
        run.print("start")
        await asyncio.gather(*(run.client() for _ in range(clients)))
    run = Soak(url, pid, arguments.calls, arguments.abandoned, arguments.rate)
    run.print("begin")
    await asyncio.gather(*(run.client() for _ in range(clients)))
    await asyncio.sleep(arguments.session_seconds + 10)
    async with ORSClient(url) as client, client.session("post", split="train", index=0) as session:
        alive = int((await session.call_tool("count", {})).text) - 1
    run.print("idle after", str(alive))


def main() -> None:
    """Run the server as a separate program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--abandoned", type=float, default=0.2)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e9, help="maximum calls per second (default: no limit)")
    parser.add_argument("--warm-up", type=float, default=0.0, help="seconds of the same before the table begins")
    parser.add_argument("--session-seconds", type=float, default=10.0, help="the server's session_timeout_seconds")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        limits = Limits(session_timeout_seconds=arguments.session_seconds)
        serve([Post], limits=limits, port=0, started=lambda url: print(url, flush=True))
        return
    serving = [sys.executable, __file__, "--serve", "--session-seconds", str(arguments.session_seconds)]
    with subprocess.Popen(serving, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            asyncio.run(soak(url, server.pid, arguments))
        finally:
            server.kill()


if __name__ == "__main__":
    main()
