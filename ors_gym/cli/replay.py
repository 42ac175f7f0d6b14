"""``ors-gym replay``: repeat a run's recorded calls in fresh sessions."""

from __future__ import annotations

import argparse
import asyncio
import itertools
from contextlib import aclosing

from rich.console import Console

from ors_gym.cli.arguments import add_connection_options, add_secret_option, at_least, make_client, secrets
from ors_gym.cli.exits import FAILURE, NO_VERDICT, InputError
from ors_gym.cli.output import say
from ors_gym.evaluation.files import read_scored, run_file
from ors_gym.evaluation.replay import replay
from ors_gym.trajectory import Trajectory

__all__ = ["HELP", "add_options", "replay_command"]

SHOWN_DIFFERENCES = 10

HELP = """\
Repeat the calls of recorded episodes, each in a fresh session of its task, and compare the results: does the same
task with the same calls give the same texts, images and rewards?

  ors-gym replay runs/mini/run.jsonl http://localhost:8080
  ors-gym replay runs/mini http://localhost:8080 --limit 20

exit status: 0 all results are the same; 1 a result differs; 2 bad input; 3 no episode could be replayed
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("run", metavar="RUN", help="a run's folder or record file")
    parser.add_argument("url", help="the server, for example http://localhost:8080")
    add_connection_options(parser)
    add_secret_option(parser)
    parser.add_argument("--limit", metavar="N", type=at_least(1), help="the first N episodes (default: all)")
    parser.add_argument("--concurrency", metavar="N", type=at_least(1), default=16, help="(default: %(default)s)")


def replay_command(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command."""
    return asyncio.run(_replay(arguments, console))


async def _replay(arguments: argparse.Namespace, console: Console) -> int:
    try:
        path = run_file(arguments.run)
        toolsets = {record.run.get("toolset") for record, _, _ in itertools.islice(read_scored(path), 1)}
    except (OSError, ValueError) as error:
        raise InputError(str(error)) from None
    episodes: itertools.islice[Trajectory] = itertools.islice(
        (record.trajectory for record, _, _ in read_scored(path) if not record.trajectory.failed), arguments.limit
    )
    same, calls, failed, differences = 0, 0, 0, list[str]()
    async with make_client(arguments) as client:
        replayed = replay(
            client,
            episodes,
            secrets=secrets(arguments) or None,
            toolset=next(iter(toolsets), None),
            max_concurrent=arguments.concurrency,
        )
        async with aclosing(replayed) as results:
            async for result in results:
                calls += result.calls
                same += result.same
                failed += result.failure is not None
                if result.failure is not None and failed == 1:
                    say(console, f"could not be replayed: {result.episode.task}: {result.failure}", "red")
                if result.difference is not None:
                    differences.append(f"{result.episode.task}: {result.difference}")
    for difference in differences[:SHOWN_DIFFERENCES]:
        say(console, difference)
    if len(differences) > SHOWN_DIFFERENCES:
        say(console, f"{len(differences) - SHOWN_DIFFERENCES:,} more differ")
    counts = f"{same:,} the same, {len(differences):,} different, {failed:,} could not be replayed"
    say(console, f"{same + len(differences) + failed:,} episodes, {calls:,} calls: {counts}")
    if differences:
        return FAILURE
    return 0 if same else NO_VERDICT
