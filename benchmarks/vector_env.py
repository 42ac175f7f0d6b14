"""The duration of a vector environment's reset and steps over slow tools, and the cost of a barrier.

    python benchmarks/vector_env.py

The reference server runs in its own process; set-up and tool take 0.2 s each. Four figures, all from one run:

- the server's floor: the time of the same requests over plain sockets with an instant set-up and tool;
- ORSVectorEnv, with a limit of 1.3 times the latency plus the floor;
- SyncVectorEnv over ORSEnv, and a reset of one member after another (as in GEM), at 64 members, scaled to 256;
- with a heavy tail (lognormal, one call in 160 takes 20 times the median), ``step`` compared with ``send``/``recv``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from typing import Any
from urllib.parse import urlsplit

import gymnasium as gym
import numpy as np
from servers import running_server

from ors_gym import ToolCall
from ors_gym.envs.vector_env import ORSVectorEnv

LATENCY_SECONDS = 0.2
STEPS = 5
ROUNDS = 3
MEDIAN_SECONDS, SIGMA = 0.1, 1.2
TAIL_MEMBERS, TAIL_EPISODES = 64, 2


class Socket:
    """One connection with a minimal client: sends prepared bytes, reads one response."""

    def __init__(self, url: str) -> None:
        self.host, self.port = urlsplit(url).hostname, urlsplit(url).port
        self.sid = ""

    async def request(self, method: str, path: str, body: object = None) -> bytes:
        """Send one request and read its response."""
        payload = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        head += f"x-session-id: {self.sid}\r\n" if self.sid else ""
        self.writer.write(f"{head}content-length: {len(payload)}\r\n\r\n".encode() + payload)
        headers = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        if b"content-length: " in headers:
            return await self.reader.readexactly(int(headers.split(b"content-length: ")[1].split(b"\r\n")[0]))
        answer = b""
        while size := int(await self.reader.readline(), 16):
            answer += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readline()
        return answer

    async def reset(self) -> None:
        """Connect, create a session and read its prompt, as a new environment's first reset does."""
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        events = (await self.request("POST", "/create_session")).decode()
        self.sid = next(line[6:] for line in events.splitlines() if line.startswith("data: "))
        await self.request("POST", "/create", {"split": "train", "index": 0, "env_name": "lab"})
        await self.request("GET", "/lab/prompt")

    async def step(self) -> None:
        """Call the tool."""
        await self.request("POST", "/lab/call", {"name": "work", "input": {"seconds": 0.0}})

    async def close(self) -> None:
        """Delete the session."""
        await self.request("POST", "/delete")
        await self.request("POST", "/delete_session")
        self.writer.close()


async def floor(url: str, num_envs: int) -> tuple[float, list[float]]:
    """Seconds that the server itself needs for one first reset and for each step of all members."""
    sockets = [Socket(url) for _ in range(num_envs)]
    seconds: list[float] = []
    for turn in range(1 + STEPS):
        began = time.perf_counter()
        await asyncio.gather(*(each.step() if turn else each.reset() for each in sockets))
        seconds.append(time.perf_counter() - began)
    await asyncio.gather(*(each.close() for each in sockets))
    return seconds[0], seconds[1:]


def time_vector(envs: gym.vector.VectorEnv[Any, Any, Any], steps: int) -> tuple[float, list[float]]:
    """Seconds of the first reset and of each step of all members; closes them."""
    began = time.perf_counter()
    envs.reset(options={"task_index": 1})
    reset = time.perf_counter() - began
    actions = [ToolCall("work", {"seconds": LATENCY_SECONDS})] * envs.num_envs
    seconds: list[float] = []
    for _ in range(steps):
        began = time.perf_counter()
        envs.step(actions)
        seconds.append(time.perf_counter() - began)
    envs.close()
    return reset, seconds


def compare(url: str, num_envs: int) -> tuple[float, float]:
    """Print the floor, ors-gym and the limit, alternating so that noise affects both; return ors-gym's."""
    floor_resets, floor_steps, resets, steps = [], [], [], []
    for _ in range(1 + ROUNDS):
        reset, each = asyncio.run(floor(url, num_envs))
        floor_resets.append(reset)
        floor_steps.extend(each)
        reset, each = time_vector(ORSVectorEnv(num_envs, url, "lab"), STEPS)
        resets.append(reset)
        steps.extend(each)
    # The first round warms up.
    floor_reset, floor_step = statistics.median(floor_resets[1:]), statistics.median(floor_steps[STEPS:])
    reset, step = statistics.median(resets[1:]), statistics.median(steps[STEPS:])
    floors = floor_reset, floor_step, max(floor_steps[STEPS:])
    for name, figures in (
        ("server floor", floors),
        ("ORSVectorEnv", (reset, step, max(steps[STEPS:]))),
        ("  allowed", tuple(1.3 * LATENCY_SECONDS + seconds for seconds in floors)),
    ):
        print(f"{f'{name}, {num_envs}':22}" + "".join(f"{seconds:12.3f}" for seconds in figures))
    return reset, step


def time_serial_reset(url: str, num_envs: int) -> float:
    """Seconds of a reset of one member after another."""
    envs = [gym.make("ors_gym/ORS-v0", url=url, env_name="lab") for _ in range(num_envs)]
    began = time.perf_counter()
    for env in envs:
        env.reset(options={"task_index": 1})
    seconds = time.perf_counter() - began
    for env in envs:
        env.close()
    return seconds


def tail_episodes_per_second(url: str, *, barrier: bool) -> float:
    """Episodes per second with the same lognormal latencies, with and without a barrier."""
    rng = np.random.default_rng(0)
    latencies = [iter(MEDIAN_SECONDS * rng.lognormal(0, SIGMA, 1000)) for _ in range(TAIL_MEMBERS)]
    envs = ORSVectorEnv(TAIL_MEMBERS, url, "lab", autoreset_mode="SameStep")
    envs.reset(options={"task_index": 0})
    wanted = TAIL_MEMBERS * TAIL_EPISODES

    def work(members: np.ndarray) -> list[ToolCall]:
        return [ToolCall("work", {"seconds": float(next(latencies[i]))}) for i in members]

    began = time.perf_counter()
    episodes, everyone = 0, np.arange(TAIL_MEMBERS)
    if not barrier:
        envs.send(work(everyone))
    while episodes < wanted:
        if barrier:
            episodes += int(envs.step(work(everyone))[2].sum())
        else:
            _, _, terminations, _, infos = envs.recv()
            episodes += int(terminations.sum())
            envs.send(work(infos["env_id"]), infos["env_id"])
    seconds = time.perf_counter() - began
    envs.close()
    return episodes / seconds


def main() -> None:
    """Run everything and print it."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with running_server("lab.py") as url:
        print(
            f"set-up {LATENCY_SECONDS} s, tool {LATENCY_SECONDS} s; medians of {ROUNDS} resets, {ROUNDS * STEPS} steps"
        )
        print(f"{'':22}{'reset s':>12}{'step s':>12}{'worst step':>12}")
        ours = {num_envs: compare(url, num_envs) for num_envs in (64, 256)}
        reset, (step,) = time_vector(gym.make_vec("ors_gym/ORS-v0", 64, "sync", url=url, env_name="lab"), 1)
        serial = time_serial_reset(url, 64)
        print(f"{'SyncVectorEnv, 64':22}{reset:12.3f}{step:12.3f}")
        print(f"{'serial reset, 64':22}{serial:12.3f}")
        for num_envs, (our_reset, our_step) in ours.items():
            scale = num_envs / 64
            print(f"times as fast, {num_envs}{' (peers scaled)' if scale > 1 else ''}:", end=" ")
            print(
                f"reset {reset * scale / our_reset:.0f}, step {step * scale / our_step:.0f} (SyncVectorEnv);", end=" "
            )
            print(f"reset {serial * scale / our_reset:.0f} (serial)")
        with_barrier, without = (tail_episodes_per_second(url, barrier=barrier) for barrier in (True, False))
        print(
            f"heavy tail, {TAIL_MEMBERS} members, episodes/s: step {with_barrier:.1f}, send/recv {without:.1f}:",
            end=" ",
        )
        print(f"{without / with_barrier:.1f} times")


if __name__ == "__main__":
    main()
