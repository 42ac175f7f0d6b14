"""The targets of ``ors-gym serve``, and the options for presenting them."""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium

from ors_gym.cli.exits import InputError
from ors_gym_server.adapters.gymnasium import as_ors_environment

__all__ = ["add_environment_options", "environment_of"]


def add_environment_options(parser: argparse.ArgumentParser) -> None:
    """The options of the environment."""
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
    gym.add_argument(
        "--example",
        metavar="TEXT",
        action="append",
        default=[],
        help="an action, where they are texts; may be repeated",
    )
    gym.add_argument("--observations", metavar="NAME,NAME,…", help="what the parts of the observation are called")
    gym.add_argument(
        "--formatter", metavar="MODULE:FUNCTION", help="writes an observation, given with its info, as text"
    )
    gym.add_argument("--drawing-only", action="store_true", help="show the drawing, and not the observation beside it")
    gym.add_argument(
        "--show-info", metavar="KEY", action="append", default=[], help="show a part of the info too; may be repeated"
    )
    gym.add_argument(
        "--any-action", action="store_true", help="take actions too that the environment says are not possible now"
    )
    gym.add_argument("--one-thread", action="store_true", help="run all sessions of a process on one thread")
    gym.add_argument("--tool-per-action", action="store_true", help="each action a tool, instead of one tool `step`")


def environment_of(target: str, arguments: argparse.Namespace) -> Any:
    """The environment's class.

    Raises:
        InputError: there is none, or it cannot be served.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")  # modules of the working directory, as for python -m
    kind, colon, rest = target.partition(":")
    if not colon or not rest:
        near = f"; did you mean gym:{target}?" if target in gymnasium.registry else ""
        raise InputError(f"{target!r} is neither gym:ID, openenv:URL nor module:Class{near}")
    if kind in ("gym", "gymnasium"):
        return _gymnasium(rest, arguments)
    if kind == "openenv" and ("://" in rest or ":" not in rest):
        return _openenv(rest, arguments)
    if kind == "openenv":
        module, _, name = rest.partition(":")
        return _openenv(_loaded(module, name), arguments)
    return _of_class(kind, rest, arguments)


def _gymnasium(source: Any, arguments: argparse.Namespace, target: str | None = None) -> Any:
    target = target or (f"gym:{source}" if isinstance(source, str) else f"{source.__module__}:{source.__name__}")
    options: dict[str, Any] = {
        "action_names": _names(arguments.actions),
        "action_examples": arguments.example,
        "observation_names": _names(arguments.observations),
        "tool_per_action": arguments.tool_per_action,
        "info_keys": arguments.show_info,
        "any_action": arguments.any_action,
        "one_thread": arguments.one_thread,
    }
    if arguments.formatter:
        options["formatter"] = _function(arguments.formatter)
    if arguments.drawing_only:
        options["show"] = "drawing"
    if arguments.render is not None:
        options["render_mode"] = None if arguments.render == "none" else arguments.render
    try:
        return as_ors_environment(source, **options, **_common(arguments), **_settings(arguments.set))
    except gymnasium.error.DependencyNotInstalled as error:
        raise InputError(str(error)) from None
    except gymnasium.error.UnregisteredEnv as error:
        raise InputError(f"{error}{_near(str(source))}") from None
    except ModuleNotFoundError as error:
        raise InputError(
            f"{target} needs the module {error.name!r}, which is neither installed nor in this folder"
        ) from None
    except (ValueError, TypeError, gymnasium.error.Error) as error:
        raise InputError(f"{target}: {error}") from None
    except Exception as error:  # of the environment's own code
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}{f': {error}' if str(error) else ''}"
        raise InputError(
            f"{target} cannot be made: {reason}, in {place.filename}, line {place.lineno} ({place.name}); if that is a "
            "package's file, the package may not fit the versions of others that are installed"
        ) from None


def _names(given: str | None) -> list[str] | None:
    return given.split(",") if given else None


def _function(target: str) -> Any:
    module, colon, name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), name) if colon else None
    except (ImportError, AttributeError) as error:
        raise InputError(f"--formatter {target}: {error}") from None
    if not callable(found):
        raise InputError(f"--formatter {target}: write module:function, of a function of the observation and the info")
    return found


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
    found = _loaded(module, name)
    if not isinstance(found, type):
        return _made_by(found, f"{module}:{name}", arguments)
    if issubclass(found, gymnasium.Env):
        return _gymnasium(found, arguments)
    if any(cls.__module__.startswith("openenv.") for cls in found.__mro__):
        return _openenv(found, arguments)
    given = [f"--{option}" for option in ("name", "split", "set", "instructions") if getattr(arguments, option)]
    if given:
        raise InputError(f"{', '.join(given)} cannot be used with {module}:{name}, which says all of that itself")
    return found


def _loaded(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{module}:{name}: {error}") from None


def _made_by(factory: Any, target: str, arguments: argparse.Namespace) -> Any:
    """The result of a function: an environment to port, or a class."""
    if not callable(factory):
        raise InputError(f"{target} is no class, and no function that makes an environment")
    return _gymnasium(factory, arguments, target)


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
