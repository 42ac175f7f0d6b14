"""The cost of an episode on Ray actors compared with this process, with 16 to 1,024 concurrent episodes.

    PYTHONPATH=. python benchmarks/ray_overhead.py

An episode has 5 tool calls of the same scripted policy, and the server does almost no work, so the rollout itself is
measured. Three ways: in this process; on two actors with the policy here (every turn is sent); on two actors with their
own policy (a task is sent and a trajectory returned). With instant tools: milliseconds of wall-clock time and of this
process's CPU per episode. With tools of 0.5 s: seconds until all episodes ended, at best 2.5.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from ors_gym import EpisodeRunner, ORSClient, RolloutLimits, ScriptedPolicy, TaskRef, ToolCall, ToolSpec
from ors_gym.rollouts.groups import EpisodeHost, run_groups
from ors_gym.types import ToolList
from ors_gym_ray import RolloutPool

CALLS, TOOL_SECONDS, NUM_ACTORS = 5, 0.5, 2
SIZES = (16, 64, 256, 1024)
EPISODES = 2048
TASK = TaskRef("stub", "train", 0)
POLICY = ScriptedPolicy([ToolCall("work")] * CALLS)
TOOLS = ToolList((ToolSpec("work"),))


@contextmanager
def stub_server(tool_seconds: float) -> Iterator[str]:
    """A server that does almost no work."""
    command = [sys.executable, str(Path(__file__).with_name("stub_server.py")), str(tool_seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.stdin.close()


async def play(host: EpisodeHost, episodes: int, at_once: int) -> tuple[float, float]:
    """Seconds of wall-clock time and of this process's CPU."""
    began, cpu = time.perf_counter(), time.process_time()
    async for group in run_groups(host, [TASK] * episodes, 1, max_concurrent_groups=at_once):
        assert not group.failures, group.failures
    return time.perf_counter() - began, time.process_time() - cpu


async def in_process(url: str, episodes: int, at_once: int) -> tuple[float, float]:
    """Without Ray."""
    limits = RolloutLimits(max_turns=CALLS, max_concurrent_sessions=at_once)
    async with ORSClient(url) as client:
        return await play(EpisodeRunner(client, POLICY, limits=limits, tools=TOOLS), episodes, at_once)


def on_actors(placement: Any) -> Callable[[str, int, int], Any]:
    """With the policy here (``driver``) or on the actors (``actors``)."""

    async def run(url: str, episodes: int, at_once: int) -> tuple[float, float]:
        places = max(at_once // NUM_ACTORS, 1)
        limits = RolloutLimits(max_turns=CALLS, max_concurrent_sessions=places)
        options = {"limits": limits, "tools": TOOLS, "policy": POLICY, "policy_placement": placement}
        with RolloutPool(url, num_actors=NUM_ACTORS, episodes_per_actor=places, **options) as pool:
            await pool.ready()
            await play(pool, min(at_once, 64), at_once)  # warms up
            return await play(pool, episodes, at_once)

    return run


WAYS = {
    "in this process": in_process,
    "actors, policy here": on_actors("driver"),
    "actors, policy there": on_actors("actors"),
}


def main() -> None:
    """Run everything and print it."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error")
    load = os.getloadavg()[0]
    print(f"{CALLS} calls an episode, {NUM_ACTORS} actors; load average {load:.1f} on {os.cpu_count()} cores")
    with stub_server(0.0) as url:
        asyncio.run(in_process(url, 64, 16))  # warms up
        print(f"instant tools, {EPISODES:,} episodes: ms of the clock (and of this process's CPU) for each episode")
        print(f"{'episodes at once':<22}" + "".join(f"{at_once:>16,}" for at_once in SIZES))
        for name, way in WAYS.items():
            cells = [asyncio.run(way(url, EPISODES, at_once)) for at_once in SIZES]
            row = (f"{wall / EPISODES * 1000:.2f} ({cpu / EPISODES * 1000:.2f})" for wall, cpu in cells)
            print(f"{name:<22}" + "".join(f"{cell:>16}" for cell in row), flush=True)
    with stub_server(TOOL_SECONDS) as url:
        print(f"tools of {TOOL_SECONDS} s, all episodes at once: s until all ended, at best {CALLS * TOOL_SECONDS}")
        for name, way in WAYS.items():
            cells = [asyncio.run(way(url, at_once, at_once)) for at_once in SIZES]
            print(f"{name:<22}" + "".join(f"{wall:>16.2f}" for wall, _ in cells), flush=True)


if __name__ == "__main__":
    main()
