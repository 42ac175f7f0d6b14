"""``ors-gym new``: a new environment's folder."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from ors_gym.cli.exits import InputError
from ors_gym.cli.output import say
from ors_gym_server.scaffold.folder import ARCHETYPES, ScaffoldError, scaffold
from ors_gym_server.scaffold.wheel import write_wheel

__all__ = ["HELP", "add_options", "new_command"]

HELP = f"""\
Write the folder of a new environment: server, tasks, a player, images to deploy it. It runs as it is.

archetypes:
{chr(10).join(f"  {name:<10}{sentence}" for name, sentence in ARCHETYPES.items())}

examples:
  ors-gym new code-breaker                              a game, to be changed into yours
  ors-gym new sales-questions --archetype sandbox
  ors-gym new lake --from gym:FrozenLake-v1             a Gymnasium environment; its tasks are seeds
  ors-gym new grid --from gym:minigrid:MiniGrid-Empty-5x5-v0
  ors-gym new rooms --from my_envs:Rooms                a gymnasium.Env of a module here, which is copied
  ors-gym new maze --from openenv:http://localhost:8000 an OpenEnv server's, which runs already

The environment has the folder's name: code-breaker holds CodeBreaker, codebreaker on the wire.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="where; new or empty, and the environment's name")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--archetype", choices=list(ARCHETYPES), default="game", help="(default: %(default)s)")
    start.add_argument(
        "--from", dest="source", metavar="KIND:WHAT", help="what there is already: gym:ID, openenv:URL, module:Class"
    )
    parser.add_argument(
        "--no-wheel", action="store_true", help="leave ors-gym itself out of wheels/, where an index has it"
    )


def new_command(arguments: argparse.Namespace, console: Console) -> int:
    """Write the folder, and say what to try."""
    source: str | None = arguments.source
    if source is not None and ":" not in source:
        raise InputError(f"--from {source}: write gym:ID, openenv:URL or module:Class, such as gym:FrozenLake-v1")
    if "" not in sys.path:
        sys.path.insert(0, "")  # modules of the working directory, as for python -m
    try:
        written = scaffold(arguments.folder, source or arguments.archetype)
        if not arguments.no_wheel:
            written.append(write_wheel(arguments.folder / "wheels"))
    except ScaffoldError as error:
        raise InputError(str(error)) from None
    except OSError as error:
        raise InputError(f"cannot write {arguments.folder}: {error.strerror or error}") from None
    for path in written:
        say(console, f"  {path}")
    say(console, "\nTry:")
    try:
        where = os.path.relpath(arguments.folder)
    except ValueError:  # on another drive
        where = os.path.abspath(arguments.folder)
    for command, meaning in {
        f"cd {where}": "",
        "ors-gym gates .": "does it work? served, listed, played to an end",
        "python server.py": "serve it; then, in another terminal:",
        "ors-gym play http://127.0.0.1:8080": "play it yourself",
        "python rollout.py": "have it played",
    }.items():
        say(console, f"  {command:<36}{meaning}".rstrip(), "cyan")
    say(console, "\nREADME.md says how it goes to OpenReward, Docker and Hugging Face Spaces.")
    return 0
