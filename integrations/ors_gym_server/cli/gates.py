"""``ors-gym gates``: whether an environment's folder works."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from ors_gym.cli.exits import FAILURE, InputError
from ors_gym.cli.output import say
from ors_gym_server.scaffold.smoke_test import check_gates

__all__ = ["HELP", "add_options", "gates_command"]

HELP = """\
Try an environment's folder: serve it, and ask of the server whether the environment is listed, has tools, and is played
to the end of an episode by rollout.py. Then some tasks are opened again, beside each other and on a second server: one
task has to be the same episode each time. Exit status 0: yes, four times. The servers are stopped in the end.

examples:
  ors-gym gates .
  ors-gym gates . --sdk        on the reference SDK's server (pip install openreward)

`ors-gym check URL` asks a running server much more: whether it keeps to the protocol.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="the environment's folder")
    parser.add_argument("--sdk", action="store_true", help="on the reference SDK's server")
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="for the server to start, and the episode (default: %(default)g)"
    )
    parser.add_argument(
        "--no-tasks", action="store_true", help="for an environment that is meant to differ each time it is opened"
    )


def gates_command(arguments: argparse.Namespace, console: Console) -> int:
    """Print the result of each gate."""
    for name in ("server.py", "rollout.py"):
        if not (arguments.folder / name).is_file():
            raise InputError(f"{arguments.folder} is no environment's folder: it has no {name}")
    ok = True
    for gate in check_gates(
        arguments.folder, sdk=arguments.sdk, seconds=arguments.seconds, tasks=not arguments.no_tasks
    ):
        mark, style = ("pass", "green") if gate.passed else ("FAIL", "bold red")
        say(console, f"{mark}  {gate.name:<13}{gate.message}", style)
        ok = ok and gate.passed
    return 0 if ok else FAILURE
