"""The cost of rollouts beyond the time of environments and models.

    python benchmarks/rollouts.py

The reference server runs in its own process. All figures come from one run:

- 256 episodes of 5 calls to a tool that takes 0.5 s: at best 2.5 s. The server's floor is the time of the same
  requests over plain sockets with an instant tool; the limit is 1.3 x 2.5 s + the floor.
- TRL's OpenReward adapter, driven as by its trainer: sessions are opened one by one, and in each turn the samples'
  tools run one after the other. Measured with 4 episodes and scaled to 256, as its loops are serial.
- Heavy tails (lognormal, one call in 160 takes 20 times the median): 128 episodes through 64 slots without a barrier,
  compared with lockstep, where every turn of a batch waits for its slowest call.
- The cost of an episode in this process with 16 to 1,024 concurrent ones, against a server that does almost no work.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from servers import running_server
from vector_env import Socket

from ors_gym import (
    EpisodeRunner,
    ORSClient,
    Reply,
    RolloutLimits,
    ScriptedPolicy,
    TaskRef,
    ToolCall,
    ToolSpec,
    Turn,
    run_groups,
)
from ors_gym.rollouts.exchange import run_all
from ors_gym.types import ToolList

EPISODES, CALLS, TOOL_SECONDS = 256, 5, 0.5
ROUNDS = 5
ADAPTER_EPISODES = 4
MEDIAN_SECONDS, SIGMA = 0.1, 1.2
PLACES, TAIL_EPISODES = 64, 128
SIZES = (16, 64, 256, 1024)
TASK = TaskRef("lab", "train", 0)


async def floor(url: str) -> float:
    """Seconds that the server needs for the requests alone."""

    async def episode() -> None:
        connection = Socket(url)
        await connection.reset()
        for _ in range(CALLS):
            await connection.step()
        await connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(episode() for _ in range(EPISODES)))
    return time.perf_counter() - began


async def ours(url: str) -> float:
    """Seconds of the same episodes in groups of 8, with the tool's time."""
    async with ORSClient(url) as client:
        tools = await client.list_tools("lab")
        policy = ScriptedPolicy([ToolCall("work", {"seconds": TOOL_SECONDS})] * CALLS)
        runner = EpisodeRunner(client, policy, tools=tools)
        began = time.perf_counter()
        groups = [group async for group in run_groups(runner, [TASK] * (EPISODES // 8), 8)]
        seconds = time.perf_counter() - began
    assert all(member.rewards == (1.0,) * CALLS for group in groups for member in group.members)
    return seconds


def adapter(url: str) -> tuple[float, float]:
    """Seconds of the adapter's resets and of its tool loop, per episode."""
    os.environ |= {"OPENREWARD_API_URL": url, "OPENREWARD_SESSION_URL": url, "TRL_EXPERIMENTAL_SILENCE": "1"}
    from trl.experimental.openreward import OpenRewardSpec

    spec = OpenRewardSpec(url, env_name="lab", num_tasks=1)
    environments = [spec.environment_factory() for _ in range(ADAPTER_EPISODES)]
    began = time.perf_counter()
    for environment in environments:  # GRPOTrainer._generate_and_score_completions
        environment.reset(task_index=0)
    ready = time.perf_counter()
    for _ in range(CALLS):  # GRPOTrainer._tool_call_loop
        for environment in environments:
            environment.work(seconds=TOOL_SECONDS)
    ended = time.perf_counter()
    assert all(environment.rewards == [1.0] * CALLS for environment in environments)
    for environment in environments:
        environment._close()
    return (ready - began) / ADAPTER_EPISODES, (ended - ready) / ADAPTER_EPISODES


class Works:
    """Calls the tool with the latencies of the task; with ``barrier``, when all others are ready too."""

    def __init__(self, latencies: np.ndarray, barrier: asyncio.Barrier | None = None) -> None:
        self.latencies = latencies
        self.barrier = barrier

    async def act(self, turn: Turn) -> Reply:
        """Call the tool."""
        if self.barrier is not None:
            await self.barrier.wait()
        seconds = float(self.latencies[turn.task.task["number"], turn.number])  # type: ignore[index]
        return Reply(tool_calls=(ToolCall("work", {"seconds": seconds}),))


async def heavy_tail(url: str, latencies: np.ndarray, *, lockstep: bool) -> float:
    """Episodes per second."""
    tasks = [TaskRef("lab", task={"setup_seconds": 0.0, "number": number}) for number in range(TAIL_EPISODES)]
    async with ORSClient(url) as client:
        tools = await client.list_tools("lab")
        limits = RolloutLimits(max_concurrent_sessions=PLACES)
        runner = EpisodeRunner(client, limits=limits, tools=tools)
        began = time.perf_counter()
        if lockstep:
            for start in range(0, TAIL_EPISODES, PLACES):
                policy = Works(latencies, asyncio.Barrier(PLACES))
                await run_all(runner.run_episode(task, policy=policy) for task in tasks[start : start + PLACES])
        else:
            policy = Works(latencies)
            async for group in run_groups(runner, tasks, 1, policy=policy, max_concurrent_groups=PLACES):
                assert not group.dropped
        return TAIL_EPISODES / (time.perf_counter() - began)


@contextmanager
def stub_server() -> Iterator[str]:
    """A server that does almost no work."""
    command = [sys.executable, str(Path(__file__).with_name("stub_server.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.stdin.close()


async def cost(url: str, at_once: int) -> float:
    """Milliseconds of this process's CPU per episode of 5 calls."""
    tools = ToolList((ToolSpec("work"),))
    limits = RolloutLimits(max_turns=CALLS, max_concurrent_sessions=at_once)
    async with ORSClient(url) as client:
        runner = EpisodeRunner(client, ScriptedPolicy([ToolCall("work")] * CALLS), limits=limits, tools=tools)
        tasks = [TaskRef("stub", "train", 0)] * (2 * max(SIZES))
        began = time.process_time()
        async for group in run_groups(runner, tasks, 1, max_concurrent_groups=at_once):
            assert not group.failures, group.failures
        return (time.process_time() - began) / len(tasks) * 1000


def main() -> None:
    """Run everything and print it."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    ideal = CALLS * TOOL_SECONDS
    with running_server("lab.py") as url:
        asyncio.run(floor(url))  # warms up
        floors, seconds, plain_cpu, our_cpu = [], [], [], []
        for _ in range(ROUNDS):  # alternating, so that noise affects both
            for work, taken, cpu in ((floor, floors, plain_cpu), (ours, seconds, our_cpu)):
                began = time.process_time()
                taken.append(asyncio.run(work(url)))
                cpu.append(time.process_time() - began)
        measured, lowest = min(seconds), min(floors)
        load = os.getloadavg()[0]
        print(
            f"{EPISODES} episodes x {CALLS} calls x {TOOL_SECONDS} s, the least disturbed of {ROUNDS} rounds", end="; "
        )
        print(f"load average {load:.1f} on {os.cpu_count()} cores")
        print(f"  at best          {ideal:7.2f} s")
        print(f"  server's floor   {lowest:7.2f} s   (at worst {max(floors):.2f})")
        print(f"  run_groups       {measured:7.2f} s   (at worst {max(seconds):.2f})")
        print(f"  allowed          {1.3 * ideal + lowest:7.2f} s   (1.3 x {ideal} s + floor)")
        print(f"  CPU of this process: plain sockets {min(plain_cpu):.2f} s, run_groups {min(our_cpu):.2f} s")
        resets, tools = adapter(url)
        serial = EPISODES * (resets + tools)
        print(
            f"  TRL's adapter    {serial:7.0f} s   ({ADAPTER_EPISODES} episodes, scaled: {resets + tools:.2f} s each)"
        )
        print(f"  times as fast    {serial / measured:7.0f}")
        latencies = MEDIAN_SECONDS * np.random.default_rng(0).lognormal(0, SIGMA, (TAIL_EPISODES, CALLS))
        free, locked = (asyncio.run(heavy_tail(url, latencies, lockstep=lockstep)) for lockstep in (False, True))
        possible = TAIL_EPISODES / (latencies.sum() / PLACES)
        print(f"heavy tail, {TAIL_EPISODES} episodes through {PLACES} places, episodes/s (at most {possible:.0f}):")
        print(f"  lockstep {locked:.1f}, no barrier {free:.1f}: {free / locked:.1f} times")
    with stub_server() as url:
        asyncio.run(cost(url, SIZES[0]))  # warms up
        costs = {at_once: asyncio.run(cost(url, at_once)) for at_once in SIZES}
    print("CPU of this process per episode, by number of concurrent episodes:")
    print("  " + ", ".join(f"{at_once:,}: {each:.2f} ms" for at_once, each in costs.items()), end="; ")
    print(f"{SIZES[-1]:,} compared with {SIZES[0]}: {costs[SIZES[-1]] / costs[SIZES[0]]:.2f} times")


if __name__ == "__main__":
    main()
