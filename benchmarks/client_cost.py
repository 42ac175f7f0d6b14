"""CPU time per tool call: ors-gym, also over httpx and httpx2, compared with plain aiohttp and the reference client.

``python benchmarks/client_cost.py [--rounds 3] [--calls 8000] [--sessions 16 64 256 1024]``, concurrently open

Each client runs in its own process against one stub server; the clients alternate within a round, so that noise affects
all of them. The client's CPU time is measured, not wall-clock time. Medians over rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
INPUT = {"word": "crane", "note": "a call of ordinary size"}

Call = Callable[[], Awaitable[Any]]


async def ors_gym(stack: AsyncExitStack, url: str, sessions: int) -> list[Call]:
    """Sessions of ORSClient."""
    from ors_gym.client.client import ORSClient

    client = await stack.enter_async_context(ORSClient(url))
    opened = [await stack.enter_async_context(client.session("stub", split="train", index=0)) for _ in range(sessions)]
    return [lambda session=session: session.call_tool("guess", INPUT) for session in opened]


async def over_httpx(stack: AsyncExitStack, url: str, sessions: int, library: str) -> list[Call]:
    """Sessions of ORSClient over a client of httpx or httpx2."""
    from ors_gym.client.client import ORSClient

    http = importlib.import_module(library)
    limits = http.Limits(max_connections=None, max_keepalive_connections=None)
    carrier = await stack.enter_async_context(http.AsyncClient(limits=limits, trust_env=False))
    client = await stack.enter_async_context(ORSClient(url, http_client=carrier))
    opened = [await stack.enter_async_context(client.session("stub", split="train", index=0)) for _ in range(sessions)]
    return [lambda session=session: session.call_tool("guess", INPUT) for session in opened]


async def reference(stack: AsyncExitStack, url: str, sessions: int) -> list[Call]:
    """Sessions of the reference client, without the redirect of its default route."""
    from openreward.api.environments.client import AsyncEnvironmentsAPI

    api = AsyncEnvironmentsAPI(base_url=url, api_key="")
    stack.push_async_callback(api.aclose)
    environment = api.get("stub", variant="stub")
    opened = [await stack.enter_async_context(environment.session(split="train", index=0)) for _ in range(sessions)]
    return [lambda session=session: session.call_tool("guess", INPUT) for session in opened]


async def aiohttp(stack: AsyncExitStack, url: str, sessions: int) -> list[Call]:
    """The same bytes with plain aiohttp: no sessions, recovery or records."""
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0)
    http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))

    async def call(sid: str) -> Any:
        async with http.post(
            f"{url}/stub/call", json={"name": "guess", "input": INPUT}, headers={"X-Session-ID": sid}
        ) as response:
            text = await response.text()
        return json.loads(text[text.index('{"ok"') :])

    return [lambda sid=str(number): call(sid) for number in range(sessions)]


CLIENTS = {
    "aiohttp": aiohttp,
    "ors-gym": ors_gym,
    "httpx": partial(over_httpx, library="httpx"),
    "httpx2": partial(over_httpx, library="httpx2"),
    "reference": reference,
}


async def measure(client: str, url: str, sessions: int, calls: int) -> dict[str, float]:
    """Milliseconds of CPU time per call, and calls per second."""
    async with AsyncExitStack() as stack:
        ready = await CLIENTS[client](stack, url, sessions)
        each = max(calls // sessions, 4)

        async def play(call: Call, times: int) -> None:
            for _ in range(times):
                await call()

        await asyncio.gather(*(play(call, 2) for call in ready))
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        await asyncio.gather(*(play(call, each) for call in ready))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    total = each * sessions
    return {"cpu_ms": cpu / total * 1000, "calls_per_second": total / wall}


def table(sessions: list[int], rounds: int, calls: int) -> None:
    """Run every client at every size and print its cost."""
    server = subprocess.Popen(
        [sys.executable, str(HERE / "stub_server.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
    print(f"{'sessions':>8} " + " ".join(f"{name + ' ms/call':>18}" for name in CLIENTS) + "   ors-gym / reference")
    try:
        for size in sessions:
            costs: dict[str, list[float]] = {name: [] for name in CLIENTS}
            for _ in range(rounds):
                for name in CLIENTS:
                    command = [sys.executable, __file__, "--one", name, url, str(size), str(calls)]
                    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                    costs[name].append(json.loads(output.splitlines()[-1])["cpu_ms"])
            medians = {name: statistics.median(values) for name, values in costs.items()}
            cells = " ".join(f"{medians[name]:>18.3f}" for name in CLIENTS)
            print(f"{size:>8} {cells}   {medians['ors-gym'] / medians['reference']:.2f}", flush=True)
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if sys.argv[1:2] == ["--one"]:
        name, url, sessions, calls = sys.argv[2:]
        print(json.dumps(asyncio.run(measure(name, url, int(sessions), int(calls)))))
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--rounds", type=int, default=3)
        parser.add_argument("--calls", type=int, default=8000)
        parser.add_argument("--sessions", type=int, nargs="+", default=[16, 64, 256, 1024])
        options = parser.parse_args()
        table(options.sessions, options.rounds, options.calls)
