"""Groups of episodes under infrastructure failures: what was asked for, what came back, what was left behind.

``python -m tests.faults.rollout_campaign [--groups 48] [--seed 0]`` prints the table.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import tests.support.ors_servers  # noqa: F401  (first: it silences the SDK's log, which is set up on import)

# isort: split
from openreward.environments import ToolOutput, tool

from ors_gym import EpisodeRunner, FailurePolicy, ORSClient, ScriptedPolicy, TaskRef, ToolCall, run_groups
from ors_gym.client.client import Timeouts
from ors_gym.trajectory import TrajectoryGroup
from tests.support.environments import Amount, Counter
from tests.support.faulty_proxy import Fault, FaultyProxy, ProxiedRequest, http_answer
from tests.support.ors_servers import RunningServer, Server, free_port, serve_app

PATIENT, IMPATIENT = Timeouts(first_event_seconds=60.0), Timeouts(first_event_seconds=1.0)
FULL = http_answer("429 Full", Retry_After="0")
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

    plan: Callable[[ProxiedRequest, random.Random], Fault | None] = lambda request, rng: None
    breaks: float = 0.0
    restarts: int = 0
    timeouts: Timeouts = PATIENT
    failures: FailurePolicy = field(default_factory=lambda: FailurePolicy(retry_delay_seconds=0.05))


def _cut(request: ProxiedRequest, rng: random.Random) -> Fault | None:
    faults = [Fault(refuse=True), Fault(drop_answer=True, reset=True), Fault(cut_after=b"event: task_id")]
    return rng.choice(faults) if rng.random() < 0.05 else None


def _hang(request: ProxiedRequest, rng: random.Random) -> Fault | None:
    return Fault(silent=True) if request.path.endswith("/call") and rng.random() < 0.05 else None


def _full(request: ProxiedRequest, rng: random.Random) -> Fault | None:
    return Fault(answer=FULL) if request.path == "/create" and rng.random() < 0.5 else None


def _often(**policy: Any) -> World:
    return World(breaks=0.05, failures=FailurePolicy(retries=0, retry_delay_seconds=0, **policy))


WORLDS = {
    "nothing breaks": World(),
    "connections are cut": World(_cut),
    "calls hang": World(_hang, timeouts=IMPATIENT),
    "the server is full": World(_full),
    "the server restarts": World(restarts=2, failures=FailurePolicy(retries=4, retry_delay_seconds=0.2)),
    "tools break": World(breaks=0.03),
    "break often: keep": _often(incomplete="keep"),
    "break often: drop": _often(incomplete="drop"),
    "break often: refill": _often(incomplete="refill"),
}


@dataclass
class Campaign:
    """One world's run: ``num_groups`` groups asked for, of as many tasks, and as many more to refill from."""

    world: World
    num_groups: int
    seed: int = 0
    groups: list[TrajectoryGroup] = field(default_factory=list)
    sessions_left: int = 0

    def run(self) -> Campaign:
        """Run it on its own event loop."""
        Shaky.breaks, Shaky.draw = self.world.breaks, random.Random(self.seed)
        asyncio.run(self._run())
        return self

    async def _run(self) -> None:
        rng = random.Random(self.seed)
        self._port, self._stack = free_port(), contextlib.ExitStack()
        tasks = [TaskRef("shaky", task={"target": TARGET, "number": number}) for number in range(2 * self.num_groups)]
        policy = ScriptedPolicy([ToolCall("add", {"amount": 1})] * TARGET)
        try:
            server = await asyncio.to_thread(self._start)
            async with FaultyProxy(server.url, lambda request: self.world.plan(request, rng)) as proxy:
                async with ORSClient(proxy.url, timeouts=self.world.timeouts) as client:
                    playing = run_groups(
                        EpisodeRunner(client, policy, tool_errors="fail"),
                        tasks,
                        GROUP_SIZE,
                        num_groups=self.num_groups,
                        failures=self.world.failures,
                        max_concurrent_groups=8,
                    )
                    restarts = 0
                    async for group in playing:
                        self.groups.append(group)
                        due = self.num_groups * (restarts + 1) // (self.world.restarts + 1)
                        if restarts < self.world.restarts and len(self.groups) >= due:
                            restarts += 1
                            await asyncio.to_thread(self._stack.close)
                            server = await asyncio.to_thread(self._start)
            self.sessions_left = len(server.live_sessions)
        finally:
            await asyncio.to_thread(self._stack.close)

    def _start(self) -> RunningServer:
        server = Server([Shaky])
        return self._stack.enter_context(
            serve_app(server.app, server=server, port=self._port, timeout_graceful_shutdown=0)
        )

    @property
    def complete(self) -> int:
        """Groups of which every member is valid."""
        return sum(group.num_valid == GROUP_SIZE for group in self.groups)

    @property
    def dropped(self) -> int:
        """Groups that were dropped."""
        return sum(group.dropped for group in self.groups)

    @property
    def kept(self) -> int:
        """Groups that were kept, incomplete ones included."""
        return len(self.groups) - self.dropped

    @property
    def refills(self) -> int:
        """Groups played instead of a dropped one."""
        return sum(group.refilled_for is not None for group in self.groups)

    @property
    def doubled(self) -> int:
        """Tasks or episodes that came back more than once."""
        tasks = collections.Counter(group.task for group in self.groups)
        episodes = collections.Counter(member.episode_id for group in self.groups for member in group.members)
        return sum(count > 1 for count in (*tasks.values(), *episodes.values()))

    @property
    def failures(self) -> collections.Counter[str]:
        """Attempts that failed, by kind."""
        return collections.Counter(failure.kind for group in self.groups for failure in group.failures)

    @property
    def wrong(self) -> list[str]:
        """Members that are not what such an episode is: whole and right, or failed and without an end."""
        members = [member for group in self.groups for member in group.members]
        whole = [member for member in members if not member.failed]
        told = [f"{member.rewards}" for member in whole if member.rewards != (None,) * (TARGET - 1) + (1.0,)]
        return told + [str(member) for member in members if member.failed and member.failure is None]


HEAD = " " * 24 + "  asked complete  kept dropped refills twice  left  failed attempts"


def row(name: str, campaign: Campaign) -> str:
    """One line of the table."""
    counts = (campaign.num_groups, campaign.complete, campaign.kept, campaign.dropped, campaign.refills)
    counts = (*counts, campaign.doubled, campaign.sessions_left)
    cells = "".join(f"{count:>{width}}" for count, width in zip(counts, (7, 9, 6, 8, 8, 6, 6), strict=True))
    return f"{name:<24}{cells}  " + ", ".join(f"{kind} {count}" for kind, count in sorted(campaign.failures.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"groups of {GROUP_SIZE}\n{HEAD}")
    for name, world in WORLDS.items():
        print(row(name, Campaign(world, options.groups, options.seed).run()), flush=True)
