"""The command line: ``ors-gym list``, ``check``, ``play``, ``rollout``, ``eval``, ``serve``, ``new``, ``gates``."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import cast

from ors_gym import __version__
from ors_gym.cli.exits import FAILURE, INTERRUPTED, CommandError, InputError
from ors_gym.errors import EndpointRefusedError, ORSError

__all__ = ["main"]

OVERVIEW = """\
Inspect, check, play and roll out environments of the Open Reward Standard (ORS).

  ors-gym demo                                          see it work in a minute
  ors-gym list http://localhost:8080                    list environments, splits and tools
  ors-gym check http://localhost:8080                   check conformance to the protocol
  ors-gym play http://localhost:8080 --env wordle       play an episode yourself
  ors-gym rollout http://localhost:8080 --episodes 100  play 100 episodes at random, as a baseline
  ors-gym eval http://localhost:8080 --model openai:M   evaluate a model, with its uncertainty
  ors-gym serve gym:FrozenLake-v1                       serve a Gymnasium or OpenEnv environment
  ors-gym new code-breaker                              create the folder of a new environment
  ors-gym gates code-breaker                            smoke-test it: serve, list, play an episode
"""

COMMANDS = {
    "demo": ("ors_gym_server.cli.demo", "see it work: a server, some episodes, a page; --train trains a model"),
    "examples": ("ors_gym.cli.examples", "list, print or copy the examples"),
    "list": ("ors_gym.cli.list", "list a server's environments, splits and tools, or the hosted catalogue"),
    "check": ("ors_gym.cli.check", "check that a server conforms to the protocol and its tasks are reproducible"),
    "play": ("ors_gym.cli.play", "play an episode yourself"),
    "rollout": ("ors_gym.cli.rollout", "play episodes with a policy and summarize them"),
    "eval": ("ors_gym.cli.eval", "evaluate models: errors, comparisons, a gate for CI"),
    "rescore": ("ors_gym.cli.rescore", "rescore a run by other rules, without playing it"),
    "replay": ("ors_gym.cli.replay", "replay a run's calls to check whether the environment is deterministic"),
    "inspect": ("ors_gym_inspect.cli", "convert a run to logs for `inspect view`"),
    "serve": ("ors_gym_server.cli.serve", "serve Gymnasium, OpenEnv and custom environments"),
    "new": ("ors_gym_server.cli.new", "create the folder of a new environment"),
    "gates": ("ors_gym_server.cli.gates", "smoke-test an environment's folder: serve, list, play an episode"),
}
"""The module and summary of each command. Some need an extra."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or one of those in :mod:`ors_gym.cli.exits`."""
    given = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for characters that the output's encoding lacks
    try:
        arguments = _parser(given[0] if given else None).parse_args(given)
    except CommandError as error:
        return _report_error(str(error), error.status)
    from rich.console import Console  # imported late: --version and --help do not need it

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    try:
        return cast("int", arguments.command(arguments, console))
    except CommandError as error:
        return _report_error(str(error), error.status)
    except (ORSError, EndpointRefusedError) as error:
        return _report_error(str(error), FAILURE)
    except KeyboardInterrupt:
        print(file=sys.stderr)  # so that the shell's prompt starts on a new line
        return INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE


def _report_error(message: str, status: int) -> int:
    from ors_gym.cli.output import visible

    print(f"ors-gym: {visible(' '.join(message.split()))}", file=sys.stderr)
    return status


def _parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands; only the selected one is imported, with its options."""
    parser = argparse.ArgumentParser("ors-gym", description=OVERVIEW, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--version", action="version", version=f"ors-gym {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        added = commands.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == wanted:
            _complete(added, name, module)
    return parser


def _complete(parser: argparse.ArgumentParser, name: str, module: str) -> None:
    try:
        command = importlib.import_module(module)  # by name: the core imports no integration
    except ImportError as error:  # the message names the extra
        raise InputError(f"{name}: {error}") from None
    parser.description = command.HELP
    parser.epilog = getattr(command, "EPILOG", None)
    command.add_options(parser)
    parser.set_defaults(command=getattr(command, f"{name}_command"))
