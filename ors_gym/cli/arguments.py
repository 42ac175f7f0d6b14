"""Options shared by several commands: the server, the environment and the task."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

from ors_gym.cli.exits import InputError
from ors_gym.client.address import Address, key_from_environment
from ors_gym.client.client import ORSClient
from ors_gym.client.timeouts import Timeouts
from ors_gym.rollouts.options import SessionOptions

SERVER_HELP = "the server, for example http://localhost:8080, or owner/name[@variant] of the hosted catalogue"

__all__ = [
    "add_connection_options",
    "add_secret_option",
    "add_server_options",
    "add_task_options",
    "api_key",
    "at_least",
    "choose_env",
    "choose_split",
    "client_options",
    "hidden_values",
    "make_client",
    "secrets",
    "session_options",
]


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add the server and its environment."""
    parser.add_argument("url", help=SERVER_HELP)
    parser.add_argument("--env", metavar="NAME", help="the environment (default: the server's first)")
    add_connection_options(parser)


def add_connection_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the connection."""
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        help="default: the environment variable ORS_API_KEY; for the hosted catalogue, OPENREWARD_API_KEY first",
    )
    parser.add_argument(
        "--header", metavar="NAME:VALUE", action="append", default=[], help="a header for every request; repeatable"
    )
    parser.add_argument("--ca", metavar="FILE", help="the certificates of a private authority, a file or a folder")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, help="for each request and tool call (default: 120 and 1800)"
    )


def add_task_options(parser: argparse.ArgumentParser, *, split: str = "the split (default: one of type train)") -> None:
    """Add options of commands that open sessions."""
    parser.add_argument("--split", metavar="NAME", help=split)
    add_secret_option(parser)


def add_secret_option(parser: argparse.ArgumentParser) -> None:
    """Add the secrets and other options of sessions."""
    parser.add_argument(
        "--secret",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        help="a secret that the environment needs; without a value it is read from the environment variable",
    )
    parser.add_argument("--toolset", metavar="NAME", help="a set of tools that the server adds to the environment's")
    parser.add_argument(
        "--parallel-tool-calls",
        metavar="TOOL,…",
        nargs="?",
        const=True,
        default=False,
        help="run the calls of one message at once: those of these tools, or all",
    )
    parser.add_argument(
        "--tool-errors",
        choices=["observe", "fail"],
        default="observe",
        help="when a tool raises: show the error to the agent, or fail the episode (default: %(default)s)",
    )


def at_least(least: int) -> Callable[[str], int]:
    """An option type for integers of at least ``least``."""

    def count(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}")
        return int(text)

    return count


def make_client(arguments: argparse.Namespace) -> ORSClient:
    """The client of the server on the command line."""
    try:
        return ORSClient(arguments.url, **client_options(arguments))
    except ValueError as error:
        raise InputError(str(error).replace("verify=", "--ca ")) from None


def client_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The client's options from the command line."""
    headers: dict[str, str] = {}
    for item in arguments.header:
        name, colon, value = item.partition(":")
        if not colon:
            raise InputError("--header needs NAME:VALUE")
        headers[name.strip()] = value.strip()
    options: dict[str, Any] = {"api_key": api_key(arguments), "headers": headers}
    if arguments.ca is not None:
        options["verify"] = arguments.ca
    if arguments.timeout is not None:
        if not arguments.timeout > 0:
            raise InputError("--timeout must be a positive number of seconds")
        options["timeouts"] = Timeouts(request_seconds=arguments.timeout, call_seconds=arguments.timeout)
    return options


def hidden_values(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Values that must not appear in any record or page."""
    headers = (item.partition(":")[2].strip() for item in arguments.header)
    return tuple(filter(None, (*secrets(arguments).values(), api_key(arguments), *headers)))


def api_key(arguments: argparse.Namespace) -> str | None:
    """The server's key; None without one."""
    return arguments.api_key or key_from_environment(hosted=Address.of(arguments.url).hosted)


async def choose_env(client: ORSClient, wanted: str | None) -> str:
    """The environment of that name, or the server's first."""
    return _one_of(await client.list_environments(), wanted, "environment")


async def choose_split(client: ORSClient, env_name: str, wanted: str | None) -> str:
    """The split of that name, or one to train on."""
    splits = sorted(await client.list_splits(env_name), key=lambda split: split.type != "train")
    return _one_of([split.name for split in splits], wanted, "split")


def _one_of(names: Sequence[str], wanted: str | None, what: str) -> str:
    if not names:
        raise InputError(f"the server has no {what}")
    known = {name.lower(): name for name in names}
    if wanted is not None and wanted.lower() not in known:
        raise InputError(f"there is no {what} {wanted!r}; choose one of {', '.join(names)}")
    return names[0] if wanted is None else known[wanted.lower()]


def session_options(arguments: argparse.Namespace) -> SessionOptions:
    """The session's options from the command line."""
    parallel = arguments.parallel_tool_calls
    return {
        "secrets": secrets(arguments) or None,
        "toolset": arguments.toolset,
        "parallel_tool_calls": parallel.split(",") if isinstance(parallel, str) else parallel,
        "tool_errors": arguments.tool_errors,
    }


def secrets(arguments: argparse.Namespace) -> dict[str, str]:
    """The secrets of ``--secret``, by name."""
    given: dict[str, str] = {}
    for item in arguments.secret:
        name, has_value, value = item.partition("=")
        if not has_value and name not in os.environ:
            raise InputError(f"--secret {name}: set the environment variable of that name, or write {name}=VALUE")
        given[name] = value if has_value else os.environ[name]
    return given
