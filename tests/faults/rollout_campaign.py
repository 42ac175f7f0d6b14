"""Groups that ``run_groups`` plays in this process while infrastructure fails. ``python -m tests.faults rollouts``."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import tests.support.ors_servers  # noqa: F401  (first: it silences the SDK's log, which is set up on import)

# isort: split
from openreward.environments import ToolOutput, tool

from ors_gym import EpisodeRunner, FailurePolicy, ORSClient, ScriptedPolicy, TaskRef, ToolCall, run_groups
from ors_gym.client.client import Timeouts
from tests.faults.groups import Plan, Tally, cut, full, hang
from tests.support.environments import Amount, Counter
from tests.support.faulty_proxy import FaultyProxy
from tests.support.ors_servers import RunningServer, Server, free_port, serve_app

__all__ = ["WORLDS", "campaign", "play"]

PATIENT, IMPATIENT = Timeouts(first_event_seconds=60.0), Timeouts(first_event_seconds=1.0)
GROUP_SIZE, TARGET = 4, 3


class Shaky(Counter):
    """Counts, and breaks as often as it is told."""

    breaks: ClassVar[float] = 0.0
    draw: ClassVar[random.Random] = random.Random(0)

    @tool
    def add(self, params: Amount) -> ToolOutput:
        """Add to the count, or break."""
        if self.draw.random() < self.breaks:
            raise RuntimeError("the counter broke")
        return Counter.add(self, params)


@dataclass
class World:
    """How infrastructure fails: by a plan for every request, by tools that break, by a server that is restarted."""

    plan: Plan = lambda request, rng: None
    breaks: float = 0.0
    restarts: int = 0
    timeouts: Timeouts = PATIENT
    failures: FailurePolicy = field(default_factory=lambda: FailurePolicy(retry_delay_seconds=0.05))


def _often(**policy: Any) -> World:
    return World(breaks=0.05, failures=FailurePolicy(retries=0, retry_delay_seconds=0, **policy))


WORLDS = {
    "nothing breaks": World(),
    "connections are cut": World(cut),
    "calls hang": World(hang, timeouts=IMPATIENT),
    "the server is full": World(full),
    "the server restarts": World(restarts=2, failures=FailurePolicy(retries=4, retry_delay_seconds=0.2)),
    "tools break": World(breaks=0.03),
    "break often: keep": _often(incomplete="keep"),
    "break often: drop": _often(incomplete="drop"),
    "break often: refill": _often(incomplete="refill"),
}


def campaign(num_groups: int, seed: int) -> Iterator[tuple[str, Tally]]:
    """What came back in each world."""
    return ((name, play(world, num_groups, seed)) for name, world in WORLDS.items())


def play(world: World, num_groups: int, seed: int = 0) -> Tally:
    """Ask for groups of as many tasks, with as many more tasks to refill from, on a separate event loop."""
    Shaky.breaks, Shaky.draw = world.breaks, random.Random(seed)
    return asyncio.run(_play(world, Tally(num_groups, TARGET), random.Random(seed)))


async def _play(world: World, tally: Tally, rng: random.Random) -> Tally:
    port, stack = free_port(), contextlib.ExitStack()

    def start() -> RunningServer:
        server = Server([Shaky])
        return stack.enter_context(serve_app(server.app, server=server, port=port, timeout_graceful_shutdown=0))

    tasks = [TaskRef("shaky", task={"target": TARGET, "number": number}) for number in range(2 * tally.asked)]
    policy = ScriptedPolicy([ToolCall("add", {"amount": 1})] * TARGET)
    try:
        server = await asyncio.to_thread(start)
        async with FaultyProxy(server.url, lambda request: world.plan(request, rng)) as proxy:
            async with ORSClient(proxy.url, timeouts=world.timeouts) as client:
                playing = run_groups(
                    EpisodeRunner(client, policy, tool_errors="fail"),
                    tasks,
                    GROUP_SIZE,
                    num_groups=tally.asked,
                    failures=world.failures,
                    max_concurrent_groups=8,
                )
                restarts = 0
                async for group in playing:
                    tally.groups.append(group)
                    due = tally.asked * (restarts + 1) // (world.restarts + 1)
                    if restarts < world.restarts and len(tally.groups) >= due:
                        restarts += 1
                        await asyncio.to_thread(stack.close)
                        server = await asyncio.to_thread(start)
        tally.sessions_left = len(server.live_sessions)
    finally:
        await asyncio.to_thread(stack.close)
    return tally
