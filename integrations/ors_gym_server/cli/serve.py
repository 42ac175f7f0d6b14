"""``ors-gym serve``: environments on a server, by one command."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from ors_gym.cli.arguments import at_least
from ors_gym.cli.exits import InputError
from ors_gym.cli.output import print_tools, say
from ors_gym_server.adapters.gymnasium import GymnasiumEnvironment
from ors_gym_server.authoring.environment import Environment
from ors_gym_server.cli.targets import add_environment_options, environment_of
from ors_gym_server.run.rehearsal import RehearsalError, lines_about, rehearse
from ors_gym_server.run.serve import default_port, serve
from ors_gym_server.runtime.limits import Limits

__all__ = ["add_options", "serve_command"]

HELP = """\
Serve Gymnasium environments, OpenEnv environments and your own by the Open Reward Standard.

what to serve, one or more:
  gym:FrozenLake-v1                     a Gymnasium environment; its tasks are seeds
  gym:minigrid:MiniGrid-Empty-5x5-v0    one that the module `minigrid` registers
  openenv:http://localhost:8000         an OpenEnv server that runs already
  openenv:my_env.server.env:MyEnv       a class of an OpenEnv environment
  my_module:MyEnvironment               a class: an Environment of ors_gym_server or of the reference SDK,
                                        a gymnasium.Env, an OpenEnv environment
  my_module:make                        a function that makes a gymnasium.Env

Modules are looked for in the working folder too: gym:my_envs:Maze-v0 imports my_envs.py, which registers Maze-v0.

examples:
  ors-gym serve gym:FrozenLake-v1 --set is_slippery=false
  ors-gym serve gym:CartPole-v1 --render rgb_array --actions left,right --split train=0:500 --split test=500:600
  ors-gym serve openenv:https://me-my-env.hf.space --host 0.0.0.0 --api-key "$(openssl rand -hex 16)"

then, from another terminal:
  ors-gym play http://localhost:8080
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("targets", metavar="WHAT", nargs="+", help="gym:ID, openenv:URL or module:Class")
    server = parser.add_argument_group("the server")
    server.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    server.add_argument("--port", type=at_least(0), help="0 for a free one (default: the variable PORT, else 8080)")
    server.add_argument("--api-key", metavar="KEY", help="what clients must send (default: the variable ORS_API_KEY)")
    server.add_argument(
        "--root-path", metavar="PATH", default="", help="prefix that a proxy in front leaves before the paths"
    )
    server.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="a host name that clients on this machine use beside localhost, where no key is needed; may be repeated",
    )
    server.add_argument("--open-to-all", action="store_true", help="let other machines connect without a key")
    server.add_argument(
        "--max-sessions", type=at_least(1), default=Limits().max_sessions, help="(default: %(default)s)"
    )
    server.add_argument(
        "--workers",
        type=at_least(1),
        default=1,
        help="processes that the sessions are spread over, for environments that compute (default: %(default)s)",
    )
    server.add_argument(
        "--isolated",
        type=at_least(1),
        metavar="N",
        help="N processes, each with one session at a time, for environments that share state; instead of --workers",
    )
    server.add_argument(
        "--no-rehearsal", action="store_true", help="announce the server without opening and playing some tasks first"
    )
    add_environment_options(parser)


def serve_command(arguments: argparse.Namespace, console: Console) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    environments = [environment_of(target, arguments) for target in arguments.targets]
    notes: list[str] = []

    def rehearsal() -> None:
        if not arguments.no_rehearsal:
            with console.status("Trying the first tasks in two processes (--no-rehearsal leaves it out) …"):
                notes.extend(_rehearse(environments, isolated=arguments.isolated is not None))

    api_key = arguments.api_key or os.environ.get("ORS_API_KEY")
    port: int | None = arguments.port
    try:
        if port is None:
            port = default_port()
        serve(
            environments,
            host=arguments.host,
            port=port,
            api_key=api_key,
            open_to_all=arguments.open_to_all,
            limits=Limits(max_sessions=arguments.max_sessions),
            workers=arguments.workers,
            isolated=arguments.isolated,
            root_path=arguments.root_path,
            allowed_hosts=arguments.allow_host,
            before=rehearsal,
            started=lambda url: _announce(console, environments, notes, url, with_key=api_key is not None),
        )
    except (TypeError, ValueError) as error:
        raise InputError(
            str(error)
            .replace("api_key", "--api-key")
            .replace("open_to_all=True", "--open-to-all")
            .replace("workers=", "--workers ")
            .replace("isolated and workers", "--isolated and --workers")
        ) from None
    except OSError as error:
        raise InputError(f"cannot listen at {arguments.host}:{port}: {error.strerror or error}") from None
    return 0


def _rehearse(environments: Sequence[Any], *, isolated: bool) -> list[str]:
    """The notes on the environments' tasks after testing them."""
    try:
        reports = rehearse(environments)
    except RehearsalError as error:
        raise InputError(str(error)) from None
    cured = ("independent",) if isolated else ()
    notes = [line for report in reports for line in lines_about(report, cured)]
    for each in environments:
        if issubclass(each, GymnasiumEnvironment) and not each.is_told:
            notes.append(
                f"{each.name().lower()}: its documentation has no rules for a player: say them by --instructions"
            )
        if issubclass(each, Environment) and each.max_sessions == 1 and not isolated:
            notes.append(f"{each.name().lower()}: it takes one session at a time; --isolated N has N of them")
    return notes


def _announce(console: Console, environments: Sequence[Any], notes: Sequence[str], url: str, *, with_key: bool) -> None:
    say(console, f"Serving at {url}", "bold green")
    for note in notes:
        say(console, f"Note: {note}", "yellow")
    for environment in environments:
        say(console, environment.name().lower(), "bold")
        if issubclass(environment, Environment):
            say(console, f"  tasks: {', '.join(_count(environment, split) for split in environment.list_splits())}")
            print_tools(console, environment.list_tools().tools)
    if with_key:
        say(console, "\nClients need the key: export ORS_API_KEY=…")
    name = environments[0].name().lower()
    say(console, "\nTry, in another terminal:")
    say(console, f"  ors-gym play {url} --env {name}", "cyan")
    say(console, f"  ors-gym rollout {url} --env {name} --episodes 100 --report random.html", "cyan")
    say(console, f'or in Python:\n  gym.make("ors_gym/ORS-v0", url="{url}", env_name="{name}")', "cyan")
    say(console, "Ctrl-C stops it.")


def _count(environment: type[Environment], split: Any) -> str:
    name = split if isinstance(split, str) else split.name
    try:
        count: Any = environment.num_tasks(name)
    except NotImplementedError:
        count = environment.list_tasks(name)
    if hasattr(count, "__len__"):
        count = len(count)
    if isinstance(count, int):
        return f"{count:,} {name}"
    close = getattr(count, "close", None)  # a coroutine: the server asks it when a client wants to know
    if close is not None:
        close()
    return name
