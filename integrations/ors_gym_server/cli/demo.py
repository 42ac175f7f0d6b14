"""``ors-gym demo``: a server, a few episodes of two policies, and a page to read them. It needs no torch."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import subprocess
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

from rich.console import Console

from ors_gym.cli.examples import examples_folder
from ors_gym.cli.exits import FAILURE, CommandError, InputError
from ors_gym.cli.output import say
from ors_gym.client.client import ORSClient
from ors_gym.policies.policy import Policy, RandomPolicy, Turn
from ors_gym.reporting.page import RunRecord, Sample, write_report
from ors_gym.rollouts.episode import EpisodeRunner, RolloutLimits
from ors_gym.rollouts.groups import run_groups
from ors_gym.rollouts.returns import trajectory_return
from ors_gym.rollouts.tasks import load_tasks
from ors_gym.trajectory import Reply, Trajectory
from ors_gym.types import ToolCall

__all__ = ["HELP", "add_options", "demo_command"]

HELP = """\
Serve the environment of examples/buttons.py, play some episodes at random and some by a script, and write a
page with every call of them.

  ors-gym demo
  ors-gym demo --train          let a small language model learn it with GRPO instead (minutes, on a CPU)
"""

EPISODES = 16


class LookThenPress:
    """Looks which button is live, then presses it."""

    async def act(self, turn: Turn) -> Reply:
        """Answer a turn."""
        if turn.number == 0:
            return Reply(tool_calls=(ToolCall("look"),))
        return Reply(tool_calls=(ToolCall("press", {"color": turn.observation.split()[2]}),))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--train", action="store_true", help="train a model; needs the extra `demo`")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="a folder (default: %(default)s)")
    parser.add_argument("--no-open", action="store_true", help="open no browser")


def demo_command(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command."""
    if arguments.train:
        return _train(arguments.output)
    page = arguments.output / "episodes.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    with _server() as url:
        say(console, f"Serving examples/buttons.py at {url}")
        record = asyncio.run(_play(url, console))
    write_report(page, record)
    address = page.resolve().as_uri()
    say(console, f"Read every call of them: {address}")
    if sys.stdout.isatty() and not arguments.no_open:
        webbrowser.open(address)
    return 0


@contextmanager
def _server() -> Iterator[str]:
    """Serve the environment in its own process, by the command that anyone would use."""
    command = [sys.executable, "-m", "ors_gym", "serve", "buttons:Buttons", "--port", "0"]
    with subprocess.Popen(command, cwd=examples_folder(), stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout is not None
            said = serving.stdout.readline()
            if "Serving at " not in said:
                raise CommandError(f"the server did not start: {said}")
            yield said.rpartition("Serving at ")[2].strip()
        finally:
            serving.terminate()


async def _play(url: str, console: Console) -> RunRecord:
    record, means = RunRecord("Two policies on buttons"), list[str]()
    policies: dict[str, Policy] = {"random": RandomPolicy(seed=0), "scripted": LookThenPress()}
    async with ORSClient(url) as client:
        tasks = await load_tasks(client, "buttons", "test", limit=EPISODES)
        for name, policy in policies.items():
            runner = EpisodeRunner(client, policy, limits=RolloutLimits(max_turns=3))
            episodes = [member async for group in run_groups(runner, tasks, 1) for member in group.members]
            record.samples += _samples(name, episodes)
            returns = [value for value in map(trajectory_return, episodes) if value is not None]
            if not returns:
                raise CommandError("no episode could be played")
            say(console, f"{name:10} mean return {fmean(returns):.2f} of {len(returns)} episodes")
            means.append(f"{name} {fmean(returns):.2f}")
    record.description = f"{EPISODES} tasks, each played once by each policy. Mean returns: {', '.join(means)}."
    record.ended = "finished"
    return record


def _samples(name: str, episodes: list[Trajectory]) -> list[Sample]:
    return [
        Sample(episode, label=name, episode_return=trajectory_return(episode), group=str(episode.task))
        for episode in episodes
    ]


def _train(output: Path) -> int:
    for package in ("trl", "ray"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"--train: the package {package} is not installed: pip install 'ors-gym[demo]'")
    command = [sys.executable, str(examples_folder() / "train_grpo.py"), "--output", str(output)]
    return FAILURE if subprocess.run(command, check=False).returncode else 0
