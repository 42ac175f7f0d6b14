"""``ors-gym serve``: environments on a server, by one command."""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
from rich.console import Console

from ors_gym.cli.arguments import at_least
from ors_gym.cli.exits import InputError
from ors_gym.cli.output import print_tools, say
from ors_gym_server.adapters.gymnasium import as_ors_environment
from ors_gym_server.authoring.environment import Environment
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
  my_module:MyEnvironment               a class: an Environment of ors_gym_server or of the reference SDK,
                                        a gymnasium.Env, an OpenEnv environment

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
    env = parser.add_argument_group("the environment")
    env.add_argument("--name", help="what it is called (default: from its id or class)")
    env.add_argument("--instructions", metavar="TEXT", help="what agents are told first (default: its documentation)")
    env.add_argument(
        "--split",
        metavar="NAME=FROM:TO",
        action="append",
        default=[],
        help="a split of the seeds FROM to TO-1; may be repeated (default: train=0:1000, validation, test)",
    )
    env.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an argument of the environment's own, its value as JSON or text; may be repeated",
    )
    gym = parser.add_argument_group("Gymnasium environments")
    gym.add_argument("--render", choices=["auto", "ansi", "rgb_array", "none"], help="drawings for the agent to see")
    gym.add_argument("--actions", metavar="NAME,NAME,…", help="what the actions are called")
    gym.add_argument("--tool-per-action", action="store_true", help="each action a tool, instead of one tool `step`")


def serve_command(arguments: argparse.Namespace, console: Console) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    environments = [_environment(target, arguments) for target in arguments.targets]
    notes = [] if arguments.no_rehearsal else _rehearse(environments, isolated=arguments.isolated is not None)
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
    """What there is to say of the environments' tasks, once they were tried."""
    try:
        reports = rehearse(environments)
    except RehearsalError as error:
        raise InputError(str(error)) from None
    cured = ("independent",) if isolated else ()
    return [line for report in reports for line in lines_about(report, cured)]


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


# ------------------------------------------------------------------- what was asked for


def _environment(target: str, arguments: argparse.Namespace) -> Any:
    kind, colon, rest = target.partition(":")
    if not colon or not rest:
        near = f"; did you mean gym:{target}?" if target in gymnasium.registry else ""
        raise InputError(f"{target!r} is neither gym:ID, openenv:URL nor module:Class{near}")
    if kind in ("gym", "gymnasium"):
        return _gymnasium(rest, arguments)
    if kind == "openenv":
        return _openenv(rest, arguments)
    return _of_class(kind, rest, arguments)


def _gymnasium(source: Any, arguments: argparse.Namespace) -> Any:
    names = arguments.actions.split(",") if arguments.actions else None
    options: dict[str, Any] = {"action_names": names, "tool_per_action": arguments.tool_per_action}
    if arguments.render is not None:
        options["render_mode"] = None if arguments.render == "none" else arguments.render
    try:
        return as_ors_environment(source, **options, **_common(arguments), **_settings(arguments.set))
    except gymnasium.error.DependencyNotInstalled as error:
        raise InputError(str(error)) from None
    except gymnasium.error.UnregisteredEnv as error:
        raise InputError(f"{error}{_near(str(source))}") from None
    except ModuleNotFoundError as error:
        raise InputError(f"gym:{source} needs the module {error.name!r}: pip install it") from None
    except (ValueError, TypeError, gymnasium.error.Error) as error:
        raise InputError(f"gym:{source}: {error}") from None


def _near(env_id: str) -> str:
    near = difflib.get_close_matches(env_id, gymnasium.registry, n=3)
    return f" There is {', '.join(near)}." if near else ""


def _openenv(source: Any, arguments: argparse.Namespace) -> Any:
    try:
        from ors_gym_server.adapters.openenv import from_openenv
    except ModuleNotFoundError as error:
        raise InputError(f"openenv: needs the package {error.name}: pip install 'ors-gym[openenv]'") from None
    settings = _settings(arguments.set)
    if isinstance(source, str) and settings:
        raise InputError("--set is for environments made here; a running OpenEnv server has made its own")
    try:
        return from_openenv(source, **_common(arguments), **settings)
    except (ConnectionError, ValueError, TypeError) as error:
        raise InputError(f"openenv:{source}: {error}") from None


def _of_class(module: str, name: str, arguments: argparse.Namespace) -> Any:
    if "" not in sys.path:
        sys.path.insert(0, "")  # modules of the working directory, as for python -m
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{module}:{name}: {error}") from None
    if not isinstance(found, type):
        raise InputError(f"{module}:{name} is no class")
    if issubclass(found, gymnasium.Env):
        return _gymnasium(found, arguments)
    if any(cls.__module__.startswith("openenv.") for cls in found.__mro__):
        return _openenv(found, arguments)
    given = [f"--{option}" for option in ("name", "split", "set", "instructions") if getattr(arguments, option)]
    if given:
        raise InputError(f"{', '.join(given)} cannot be used with {module}:{name}, which says all of that itself")
    return found


def _common(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.name and len(arguments.targets) > 1:
        raise InputError("--name is for one environment")
    splits = _splits(arguments.split)
    return {"name": arguments.name, "instructions": arguments.instructions, "splits": splits or None}


def _splits(given: Sequence[str]) -> Mapping[str, range]:
    splits: dict[str, range] = {}
    for item in given:
        name, equals, bounds = item.partition("=")
        first, colon, last = bounds.partition(":")
        if not (equals and colon and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
            raise InputError(f"--split {item}: write it as train=0:1000")
        splits[name] = range(int(first), int(last))
    return splits


def _settings(given: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--set {item}: write it as name=value")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings
