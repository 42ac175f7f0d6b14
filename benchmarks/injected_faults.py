"""The same faults for ors-gym and the reference client: how often tools ran, what came of it, what was left behind.

``PYTHONPATH=. python benchmarks/injected_faults.py [--calls 10]``

Each call has its own session and goes through a proxy that breaks it once, or three times. ``ran`` above the
number of calls means that tools ran twice; ``changed`` counts results whose text is not what the tool returned.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ors_gym.client.client import ORSClient
from tests.support.environments import Ledger
from tests.support.faulty_proxy import Fault, FaultyProxy, ProxiedRequest
from tests.support.ors_servers import RunningServer, serve

TEXT = "def f():\n" + "    return {'a':   1}  # \u2028 indented\n" * 400
FAULTS: dict[str, tuple[str, list[Fault]]] = {
    "none, 15 kB of indented text": ("/call", []),
    "cut after task_id": ("/call", [Fault(cut_after=b"event: task_id")]),
    "cut after task_id, 3 times": ("/call", [Fault(cut_after=b"event: task_id")] * 3),
    "cut inside the result": ("/call", [Fault(cut_at=9000)]),
    "answer lost before task_id": ("/call", [Fault(drop_answer=True)]),
    "answer lost, 3 times": ("/call", [Fault(drop_answer=True)] * 3),
    "answer to /create lost": ("/create", [Fault(drop_answer=True)]),
}

Episode = Callable[[str, str], Awaitable[str]]


async def ors_gym(url: str, key: str) -> str:
    """One session and one call with ORSClient."""
    async with ORSClient(url) as client, client.session("ledger", task={}) as session:
        return (await session.call_tool("work", {"key": key, "text": TEXT})).text


async def reference(url: str, key: str) -> str:
    """One session and one call with the reference client."""
    from openreward.api.environments.client import AsyncEnvironmentsAPI

    async with AsyncEnvironmentsAPI(base_url=url, api_key="") as api:
        environment = api.get("ledger", variant="ledger")
        async with environment.session(split="train", index=0) as session:
            return str((await session.call_tool("work", {"key": key, "text": TEXT})).blocks[0].text)


@dataclass
class Tally:
    """What became of some calls."""

    ran: int = 0
    results: int = 0
    changed: int = 0
    errors: int = 0
    left: int = 0

    def __str__(self) -> str:
        return f"{self.ran:>5}{self.results:>9}{self.changed:>9}{self.errors:>8}{self.left:>6}"


async def measure(server: RunningServer, episode: Episode, path: str, faults: list[Fault], calls: int) -> Tally:
    """Run the calls at once, each with its own faults."""
    tally = Tally()
    keys = [uuid.uuid4().hex for _ in range(calls)]

    async def one(key: str) -> None:
        waiting = list(faults)

        def plan(request: ProxiedRequest) -> Fault | None:
            return waiting.pop() if waiting and request.path.endswith(path) else None

        async with FaultyProxy(server.url, plan) as proxy:
            try:
                text = await episode(proxy.url, key)
            except Exception:
                tally.errors += 1
            else:
                tally.results += 1
                tally.changed += text != TEXT

    await asyncio.gather(*(one(key) for key in keys))
    tally.ran = sum(Ledger.executions[key] for key in keys)
    tally.left = len(server.live_sessions)
    for sid in list(server.live_sessions):
        server.forget(sid)
    return tally


def main(calls: int) -> None:
    """Print the table."""
    logging.disable()
    columns = f"{'ran':>5}{'results':>9}{'changed':>9}{'errors':>8}{'left':>6}"
    print(f"{calls} calls each{'':<20}{'ors-gym':<37} | reference client")
    print(f"{'fault':<31}{columns} | {columns}")
    with serve(Ledger) as server:
        for name, (path, faults) in FAULTS.items():
            tallies = [asyncio.run(measure(server, each, path, faults, calls)) for each in (ors_gym, reference)]
            print(f"{name:<31}{tallies[0]} | {tallies[1]}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10)
    main(parser.parse_args().calls)
