"""Thousands of concurrent episodes in a few Ray actors, against the ors-gym server with instant tools.

    PYTHONPATH=.:integrations python benchmarks/ray_scale.py [--episodes 10000] [--actors 4]

First all episodes are opened, and wait until each of them has reached its first turn, so that all sessions are open at
the same time. The memory of an idle one is the growth of each process divided by the episodes. Then all continue to
their end, with 5 calls each. ``lost`` counts the episodes that failed, ended early or came back twice.

Then the cost of an episode with 256 concurrent ones: in this process, and on 1, 2 and 4 actors with the policy here.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from ors_gym import EpisodeRunner, FailurePolicy, ORSClient, Reply, RolloutLimits, TaskRef, ToolCall, Turn
from ors_gym.client.timeouts import Timeouts
from ors_gym.rollouts.groups import EpisodeHost, run_groups
from ors_gym.types import ToolOutput
from ors_gym_ray import RolloutPool
from ors_gym_server import Environment, Limits, serve, tool

CALLS, AT_ONCE, EPISODES = 5, 256, 2048
TASK = TaskRef("bench", "train", 0)
PATIENT = {"timeouts": Timeouts(request_seconds=600, first_event_seconds=600, silence_seconds=600)}


class Bench(Environment):
    """An instant tool."""

    calls = 0

    @classmethod
    def list_splits(cls) -> list[str]:
        """One split."""
        return ["train"]

    @classmethod
    def list_tasks(cls, split: str) -> list[dict[str, int]]:
        """One task."""
        return [{"n": 0}]

    def get_prompt(self) -> str:
        """The same for every episode."""
        return "Work."

    @tool
    async def work(self) -> ToolOutput:
        """Count."""
        self.calls += 1
        return ToolOutput((), reward=1.0, finished=self.calls == CALLS)


class Works:
    """Calls the tool; with ``wait_for``, only after this number of episodes has reached the first turn."""

    def __init__(self, wait_for: int = 0) -> None:
        self.missing = wait_for
        self.all_here = asyncio.Event()
        self.go_on = asyncio.Event()
        if not wait_for:
            self.go_on.set()

    async def act(self, turn: Turn) -> Reply:
        """One call."""
        if not self.go_on.is_set() and turn.number == 0:
            self.missing -= 1
            if self.missing == 0:
                self.all_here.set()
            await self.go_on.wait()
        return Reply(tool_calls=(ToolCall("work"),))


@contextmanager
def our_server(max_sessions: int) -> Iterator[tuple[str, int]]:
    """The ors-gym server in a separate process: its URL and the process."""
    command = [sys.executable, __file__, "--serve", str(max_sessions)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
        process.terminate()
        process.stdout.close()


def megabytes(pid: int) -> float:
    """The memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


async def all_at_once(url: str, server: int, episodes: int, actors: int) -> None:
    """Open all episodes, measure, and end them."""
    policy = Works(wait_for=episodes)
    options = {"client_options": PATIENT, "limits": RolloutLimits(max_turns=CALLS)}
    with RolloutPool(
        url, num_actors=actors, episodes_per_actor=-(-episodes // actors), policy=policy, **options
    ) as pool:
        await pool.ready()
        pids = {"an actor": [w.home.pid for w in pool._workers if w.home], "server": [server], "driver": [os.getpid()]}
        before = {pid: megabytes(pid) for each in pids.values() for pid in each}
        began = time.perf_counter()
        playing = asyncio.create_task(_play(pool, episodes, episodes))
        waiting = asyncio.create_task(policy.all_here.wait())
        await asyncio.wait([playing, waiting], return_when=asyncio.FIRST_COMPLETED)
        print(f"{episodes:,} episodes open on {actors} actors after {time.perf_counter() - began:.1f} s", flush=True)
        for name, processes in pids.items():
            grown = sum(megabytes(pid) - before[pid] for pid in processes)
            total = sum(map(megabytes, processes)) / len(processes)
            print(
                f"  {name}: {grown / episodes * 1000:.1f} kB for each idle episode, {total:.0f} MB in all", flush=True
            )
        began = time.perf_counter()
        policy.go_on.set()
        lost, retried = await playing
        seconds = time.perf_counter() - began
        per_episode = seconds / episodes * 1000
        print(f"  ended after {seconds:.1f} s ({per_episode:.2f} ms each), lost {lost}, retried {retried}", flush=True)


async def _play(host: EpisodeHost, episodes: int, at_once: int) -> tuple[int, int]:
    """The number of lost episodes and of retried attempts."""
    seen: set[str] = set()
    retried = 0
    failures = FailurePolicy(retries=2)
    async for group in run_groups(host, [TASK] * episodes, 1, failures=failures, max_concurrent_groups=at_once):
        retried += group.attempts - 1
        [member] = group.members
        if len(member.rewards) == CALLS and member.terminated:
            seen.add(member.episode_id)
    return episodes - len(seen), retried


async def cost(url: str, actors: int) -> float:
    """Milliseconds of wall-clock time per episode; no actors mean this process."""
    limits = RolloutLimits(max_turns=CALLS, max_concurrent_sessions=AT_ONCE)
    if not actors:
        async with ORSClient(url) as client:
            return await _timed(EpisodeRunner(client, Works(), limits=limits))
    with RolloutPool(url, num_actors=actors, episodes_per_actor=AT_ONCE // actors, policy=Works()) as pool:
        await pool.ready()
        return await _timed(pool)


async def _timed(host: EpisodeHost) -> float:
    await _play(host, AT_ONCE, AT_ONCE)  # warms up
    began = time.perf_counter()
    lost, _ = await _play(host, EPISODES, AT_ONCE)
    assert not lost, lost
    return (time.perf_counter() - began) / EPISODES * 1000


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--actors", type=int, default=4)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        limits = Limits(max_sessions=arguments.serve, session_timeout_seconds=3600)
        serve([Bench], port=0, limits=limits, started=lambda url: print(url, flush=True))
        return
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    with our_server(2 * arguments.episodes) as (url, server):
        asyncio.run(all_at_once(url, server, arguments.episodes, arguments.actors))
        print(f"ms for an episode of {CALLS} calls, {AT_ONCE} at once:", flush=True)
        for actors in (0, 1, 2, 4):
            milliseconds = asyncio.run(cost(url, actors))
            print(f"  {f'{actors} actors' if actors else 'in this process'}: {milliseconds:.2f}", flush=True)


if __name__ == "__main__":
    main()
