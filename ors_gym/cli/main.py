"""The command line: ``ors-gym list``, ``check``, ``play``, ``rollout``, ``eval``, ``serve``, ``new``, ``gates``."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ors_gym.cli import rollout as rollout_command
from ors_gym.cli.arguments import (
    FAILURE,
    INTERRUPTED,
    CommandError,
    InputError,
    add_server_options,
    add_task_options,
    at_least,
    choose_env,
    choose_split,
    client_options,
    make_client,
    secrets,
    session_options,
)
from ors_gym.cli.play import play_episode, print_tools, say, visible
from ors_gym.cli.rollout import rollout
from ors_gym.client.portal import Portal
from ors_gym.errors import ORSError
from ors_gym.policies.endpoint import EndpointRefusedError
from ors_gym.rollouts.options import open_session
from ors_gym.testing import CheckReport, Outcome, check_server
from ors_gym.trajectory import TaskRef

__all__ = ["main"]

OVERVIEW = """\
Look at, check, play and roll out environments of the Open Reward Standard (ORS).

  ors-gym list http://localhost:8080                    what is there: environments, splits, tools
  ors-gym check http://localhost:8080                   does the server keep to the protocol?
  ors-gym play http://localhost:8080 --env wordle       play an episode yourself
  ors-gym rollout http://localhost:8080 --episodes 100  play a hundred at random, as a baseline
  ors-gym eval http://localhost:8080 --model openai:M   how good is a model, and how sure is that?
  ors-gym serve gym:FrozenLake-v1                       serve a Gymnasium or OpenEnv environment
  ors-gym new code-breaker                              write the folder of a new environment
  ors-gym gates code-breaker                            does it work? served, listed, played to an end
"""

OPTIONAL_COMMANDS = {
    "eval": ("ors_gym.cli.eval", "evaluate models: errors, comparisons, a gate for CI"),
    "rescore": ("ors_gym.cli.rescore", "score a run by other rules, without playing it"),
    "replay": ("ors_gym.cli.replay", "play a run's calls again: is the environment deterministic?"),
    "serve": ("ors_gym_server.cli.serve", "serve Gymnasium environments, OpenEnv environments and your own"),
    "new": ("ors_gym_server.cli.new", "write the folder of a new environment"),
    "gates": ("ors_gym_server.cli.gates", "try an environment's folder: served, listed, played to an end"),
}
"""Commands that need an extra: the module of each, and what it does."""

PLAY = """\
Type a tool's name and its input as JSON, for example:

  > look
  > press {"color": "red"}

:tools lists the tools, :quit leaves. Moves are also read from a file or a pipe:

  printf 'look\\npress {"color": "red"}\\n' | ors-gym play http://localhost:8080
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or one of those in :mod:`ors_gym.cli.arguments`."""
    given = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # characters that a terminal's or a pipe's encoding lacks
    try:
        arguments = _parser(given[0] if given else None).parse_args(given)
    except CommandError as error:
        return _complain(str(error), error.status)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    try:
        return cast("int", arguments.command(arguments, console))
    except CommandError as error:
        return _complain(str(error), error.status)
    except (ORSError, EndpointRefusedError) as error:
        return _complain(str(error), FAILURE)
    except KeyboardInterrupt:
        print(file=sys.stderr)  # what comes next begins on a line of its own
        return INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE


def _complain(message: str, status: int) -> int:
    print(f"ors-gym: {visible(' '.join(message.split()))}", file=sys.stderr)
    return status


def _parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands; those that need an extra are known as far as one is wanted, for its imports."""
    parser = argparse.ArgumentParser("ors-gym", description=OVERVIEW, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--version", action="version", version=f"ors-gym {metadata.version('ors-gym')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace, Console], int], summary: str, epilog: str = ""
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(command=run)
        add_server_options(added)
        return added

    command("list", _list, "list a server's environments, splits and tools")
    check = command("check", _check, "check that a server keeps to the protocol; no tool is run")
    check.add_argument("--format", choices=("text", "json", "junit"), default="text", help="(default: %(default)s)")
    play = command("play", _play, "play an episode yourself", PLAY)
    rolling = command("rollout", rollout, "play episodes with a policy and sum them up", rollout_command.HELP)
    rollout_command.add_options(rolling)
    for added in (check, play):
        add_task_options(added)
        added.add_argument("--index", type=at_least(0), default=0, help="the task's index (default: %(default)s)")
    for name, (module, summary) in OPTIONAL_COMMANDS.items():
        added = commands.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == wanted:
            _complete(added, name, module)
    return parser


def _complete(parser: argparse.ArgumentParser, name: str, module: str) -> None:
    try:
        command = importlib.import_module(module)  # by name: the core imports no integration
    except ImportError as error:  # names its extra
        raise InputError(f"{name}: {error}") from None
    parser.description = command.HELP
    command.add_options(parser)
    parser.set_defaults(command=getattr(command, f"{name}_command"))


# ------------------------------------------------------------------- list


def _list(arguments: argparse.Namespace, console: Console) -> int:
    async def show() -> None:
        async with make_client(arguments) as client:
            names = [await choose_env(client, arguments.env)] if arguments.env else await client.list_environments()
            for name in names:
                say(console, name, "bold")
                for split in await client.list_splits(name):
                    count = await client.num_tasks(name, split.name)
                    kind = "" if split.type == split.name else f"  ({split.type})"
                    say(console, f"  {split.name}{kind}  {count:,} task{'' if count == 1 else 's'}")
                tools = await client.list_tools(name)
                print_tools(console, tools.tools)
                if tools.terminal_tool is not None:
                    say(console, f"  a plain message goes to {tools.terminal_tool.name} and ends it")

    asyncio.run(show())
    return 0


# ------------------------------------------------------------------- check


def _check(arguments: argparse.Namespace, console: Console) -> int:
    make_client(arguments)  # says what is wrong with the URL
    work = check_server(
        arguments.url,
        env_name=arguments.env,
        split=arguments.split,
        index=arguments.index,
        secrets=secrets(arguments),
        client_options=client_options(arguments),
    )
    report = asyncio.run(work)
    if arguments.format == "text":
        _print_report(report, console)
    else:
        print(report.to_json() if arguments.format == "json" else report.to_junit())
    return 0 if report.ok else FAILURE


def _print_report(report: CheckReport, console: Console) -> None:
    styles = {Outcome.PASS: "green", Outcome.FAIL: "bold red", Outcome.WARN: "yellow", Outcome.SKIP: "dim"}
    table = Table.grid(padding=(0, 2))
    for check in report.checks:
        message = Text(visible(check.message))
        if check.outcome in (Outcome.FAIL, Outcome.WARN):
            message.append(f"\n{str(check.level).capitalize()}: {check.statement}", style="dim")
        table.add_row(Text(check.outcome, style=styles[check.outcome]), check.number, check.name, message)
    console.print(table)
    passed, failed, warned, skipped = (report.counts[outcome] for outcome in Outcome)
    say(console, f"{passed} passed, {failed} failed, {warned} not met though not required, {skipped} skipped")


# ------------------------------------------------------------------- play


def _play(arguments: argparse.Namespace, console: Console) -> int:
    with Portal() as portal:  # keeps the session alive while a person thinks
        client = make_client(arguments)
        try:
            env_name = portal.run(choose_env(client, arguments.env))
            split = portal.run(choose_split(client, env_name, arguments.split))
            task = TaskRef(env_name, split, arguments.index)
            options = session_options(arguments)
            session = open_session(client, task, options)
            try:
                portal.run(session.open())
                say(console, f"{env_name}:{split}[{arguments.index}]", "bold")
                play_episode(portal, session, console, options)
            finally:
                portal.run(session.close())
        finally:
            portal.run(client.aclose())
    return 0
