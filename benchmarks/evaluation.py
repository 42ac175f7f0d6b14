"""The cost of an evaluation beyond its episodes, and the time to open its page.

    python benchmarks/evaluation.py [--pages] [--coverage]

- 512 instant episodes (128 tasks, 4 epochs) with an endpoint that answers immediately: processor time of this process
  for ``evaluate``, with its file, and for ``run_groups`` alone. The server and the endpoint run in separate
  processes. Best of five, alternating.
- ``--pages``: 20,000 recorded episodes: their page is written, and opened in Chromium if installed; the memory for
  writing 100,000 episodes.
- ``--coverage``: how often the 95 % intervals contain the true value, in 2,000 simulated runs per cell.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ors_gym import ChatPolicy, EpisodeRunner, ORSClient, RolloutLimits, ToolCall, ToolOutput, run_groups
from ors_gym.evaluation import Rules, TaskScores, evaluate, score_file
from ors_gym.evaluation.page import write_evaluation_page
from ors_gym.evaluation.statistics import mean_return, success_rate
from ors_gym.policies.policy import ScriptedPolicy
from ors_gym.reporting.records import TrajectoryWriter, read_trajectories
from ors_gym.rollouts.tasks import TaskSampler, load_tasks
from ors_gym.trajectory import TrajectoryGroup
from ors_gym.types import TextBlock
from ors_gym_server import Environment, serve, tool

TASKS, EPOCHS, ROUNDS = 128, 4, 5
LIMITS = RolloutLimits(max_concurrent_sessions=64)


class Instant(Environment):
    """One call ends an episode."""

    @classmethod
    def list_splits(cls) -> Sequence[str]:
        """One split."""
        return ["test"]

    @classmethod
    def list_tasks(cls, split: str) -> Sequence[Mapping[str, Any]]:
        """Numbers."""
        return [{"number": number} for number in range(TASKS)]

    def get_prompt(self) -> str:
        """The prompt."""
        return "Press the button."

    @tool
    async def press(self) -> ToolOutput:
        """Press it."""
        return ToolOutput((TextBlock("pressed"),), reward=1.0, finished=True)


async def endpoint(port: int) -> None:
    """A model that presses the button immediately."""
    call = {"id": "c", "type": "function", "function": {"name": "press", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    usage = {"prompt_tokens": 9, "completion_tokens": 5}
    answer = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": usage}
    body = json.dumps(answer).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in request.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                )
                await reader.readexactly(length)
                writer.write(head + body)
        except asyncio.IncompleteReadError:
            writer.close()

    await (await asyncio.start_server(connection, "127.0.0.1", port)).serve_forever()


@contextmanager
def helpers() -> Iterator[tuple[str, str]]:
    """The server and the endpoint, each in its own process."""
    ports = free_ports(2)
    roles = ("--serve", "--endpoint")
    processes = [
        subprocess.Popen([sys.executable, __file__, role, str(port)]) for role, port in zip(roles, ports, strict=True)
    ]
    try:
        for port in ports:
            wait_for(port)
        yield f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}/v1"
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Free ports."""
    import socket

    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def wait_for(port: int) -> None:
    """Wait until the port is open."""
    import socket

    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)


async def groups_alone(url: str, model: str) -> float:
    """Processor seconds of the same episodes by run_groups."""
    async with ORSClient(url) as client, ChatPolicy(model, "m", stream=False) as policy:
        tasks = await load_tasks(client, "instant", "test")
        runner = EpisodeRunner(client, policy, limits=LIMITS)
        began = time.process_time()
        played = [group async for group in run_groups(runner, TaskSampler(tasks, epochs=EPOCHS), 1)]
        seconds = time.process_time() - began
    assert sum(group.num_valid for group in played) == TASKS * EPOCHS
    return seconds


async def evaluated(url: str, model: str, out: Path | None) -> float:
    """Processor seconds of the evaluation, from choosing tasks to the results."""
    async with ORSClient(url) as client, ChatPolicy(model, "m", stream=False) as policy:
        began = time.process_time()
        options: dict[str, Any] = {"limits": LIMITS, "epochs": EPOCHS, "split": "test", "out": out}
        evaluation = await evaluate(client, {"m": policy}, **options)
        evaluation.to_json()
        seconds = time.process_time() - began
    assert evaluation.results[0].success.value == 1.0
    return seconds


def cost() -> None:
    """Print the cost of an evaluation relative to run_groups."""
    alone, silent, written = [], [], []
    with helpers() as (url, model), tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            alone.append(asyncio.run(groups_alone(url, model)))
            silent.append(asyncio.run(evaluated(url, model, None)))
            written.append(asyncio.run(evaluated(url, model, Path(folder) / f"{number}.jsonl")))
    episodes = TASKS * EPOCHS
    best = min(alone)
    print(f"{episodes} instant episodes, processor time of this process, best of {ROUNDS}:")
    for name, seconds in (
        ("run_groups alone", best),
        ("evaluate", min(silent)),
        ("evaluate, with a file", min(written)),
    ):
        print(f"  {name:22} {seconds:.3f} s  {1e3 * seconds / episodes:.2f} ms an episode  {seconds / best:.2f} x")


# ------------------------------------------------------------------- pages


async def recorded(url: str, folder: Path, models: int, epochs: int) -> Path:
    """The file of a real run, with each line repeated."""
    async with ORSClient(url) as client:
        policy = ScriptedPolicy([ToolCall("press")])
        await evaluate(client, {"m": policy}, limits=LIMITS, split="test", out=folder / "one.jsonl")
    trajectories = list(read_trajectories(folder / "one.jsonl"))
    path = folder / "many.jsonl"
    draw = np.random.default_rng(0)
    for model in range(models):
        about = {"model": f"model {model}", "env": "instant", "split": "test", "episodes": TASKS * epochs}
        with TrajectoryWriter(path, run=about) as writer:
            for epoch in range(epochs):
                for number, trajectory in enumerate(trajectories):
                    note = {"task": f"test[{number}]", "epoch": epoch, "return": float(draw.integers(2))}
                    writer.write_group(TrajectoryGroup(trajectory.task, (trajectory,), attempts=1), note)
    return path


def pages() -> None:
    """Print the cost of large runs."""
    with helpers() as (url, _), tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        path = asyncio.run(recorded(url, Path(folder), 4, 196))
        seconds = time.perf_counter() - began
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        size = path.stat().st_size / 1e6
        print(f"{4 * 196 * TASKS:,} episodes written: {size:.0f} MB in {seconds:.0f} s, {grown:.0f} MB of memory more")
        path.unlink()
        path = asyncio.run(recorded(url, Path(folder) / "20k", 3, 52))
        began = time.perf_counter()
        evaluation = score_file(path, Rules())
        read = time.perf_counter() - began
        page = write_evaluation_page(Path(folder) / "page.html", evaluation)
        wrote = time.perf_counter() - began - read
        size = page.stat().st_size / 1e6
        print(f"{3 * 52 * TASKS:,} episodes: scored in {read:.1f} s, page of {size:.1f} MB written in {wrote:.1f} s")
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        if chromium is not None:
            print(f"  opened and drawn in {opened(chromium, page, Path(folder)):.2f} s")


def opened(chromium: str, page: Path, folder: Path) -> float:
    """Seconds until Chromium has loaded and drawn a page, by its own clock; best of three."""
    clock = "addEventListener('load', () => setTimeout(() => console.log('drawn', performance.now())))"
    text = page.read_text(encoding="utf-8").replace("Content-Security-Policy", "x")  # lets the clock's script in
    timed = folder / "timed.html"
    timed.write_text(text.replace("</body>", f"<script>{clock}</script></body>"), encoding="utf-8")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --enable-logging=stderr"
    )
    seconds: list[float] = []
    for number in range(3):
        options = [f"--user-data-dir={folder / f'profile-{number}'}", f"--screenshot={folder / 'page.png'}"]
        command = [chromium, *flags.split(), *options, timed.as_uri()]
        logged = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stderr
        seconds.append(float(logged.partition('"drawn ')[2].partition('"')[0]) / 1e3)
    return min(seconds)


# ------------------------------------------------------------------- coverage


def coverage(runs: int = 2000) -> None:
    """Print how often the 95 % intervals contain the true value, for the worst of six shapes of difficulty."""
    shapes = [(0.1, 1.9), (0.2, 1.8), (1.0, 1.0), (5.0, 5.0), (4.0, 1.0), (9.5, 0.5)]
    print("coverage of the 95 % intervals in %, worst of six shapes of difficulty")
    print("tasks epochs  clustered Wilson  t")
    for tasks in (10, 30, 100):
        for epochs in (1, 4):
            worst = [1.0, 1.0]
            for number, (a, b) in enumerate(shapes):
                draw = np.random.default_rng([tasks, epochs, number])
                inside = [0, 0]
                for _ in range(runs):
                    solved = draw.random((tasks, epochs)) < draw.beta(a, b, (tasks, 1))
                    scores = [TaskScores(str(task), tuple(map(float, row))) for task, row in enumerate(solved)]
                    for place, estimate in enumerate((success_rate(scores), mean_return(scores))):
                        low, high = estimate.interval or (estimate.value, estimate.value)
                        inside[place] += bool(low is not None and high is not None and low <= a / (a + b) <= high)
                worst = [min(least, count / runs) for least, count in zip(worst, inside, strict=True)]
            print(f"{tasks:5} {epochs:6}  {100 * worst[0]:16.1f}  {100 * worst[1]:.1f}")


def main() -> None:
    """Run the selected benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", action="store_true", help="large runs: their files and pages")
    parser.add_argument("--coverage", action="store_true", help="simulate the intervals")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve([Instant], port=arguments.serve)
    elif arguments.endpoint:
        asyncio.run(endpoint(arguments.endpoint))
    elif arguments.pages:
        pages()
    elif arguments.coverage:
        coverage()
    else:
        cost()


if __name__ == "__main__":
    main()
