"""``ors-gym inspect``: convert a run to Inspect logs."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from ors_gym.cli.exits import InputError
from ors_gym.cli.output import say
from ors_gym.cli.scoring import add_return_options
from ors_gym.evaluation import Rules
from ors_gym_inspect import write_inspect_logs

__all__ = ["HELP", "add_options", "inspect_command"]

HELP = """\
Convert the episodes of a run to Inspect logs, one per model. Nothing is played.

  ors-gym inspect runs/mini
  inspect view --log-dir runs/mini/inspect

Conversely, Inspect plays an ORS environment with any of its models:

  inspect eval ors_gym_inspect/ors_task -T url=http://localhost:8080 --model openai/gpt-5-mini
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("run", metavar="RUN", help="a run's folder or record file")
    parser.add_argument("--out", metavar="DIR", help="folder of the logs (default: inspect/ next to the records)")
    add_return_options(parser)


def inspect_command(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command."""
    run = Path(arguments.run)
    folder = Path(arguments.out or (run if run.is_dir() else run.parent) / "inspect")
    rules = Rules(
        reward=arguments.reward,
        unrewarded=arguments.unrewarded,
        success_at=arguments.success_at,
        cluster_by=arguments.cluster_by,
    )
    try:
        paths = write_inspect_logs(run, folder, rules)
    except (OSError, ValueError) as error:
        raise InputError(str(error)) from None
    for path in paths:
        say(console, f"Wrote {path}")
    say(console, f"Read them with: inspect view --log-dir {folder}")
    return 0
