"""``ors-gym check``: check a server's conformance to the protocol."""

from __future__ import annotations

import argparse
import asyncio

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ors_gym.cli.arguments import add_server_options, add_task_options, at_least, client_options, make_client, secrets
from ors_gym.cli.exits import FAILURE
from ors_gym.cli.output import say, visible
from ors_gym.testing import CheckReport, Outcome, check_server

__all__ = ["HELP", "add_options", "check_command"]

HELP = "Check that a server conforms to the protocol. Without --play, no tool is run."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_server_options(parser)
    parser.add_argument("--format", choices=("text", "json", "junit"), default="text", help="(default: %(default)s)")
    parser.add_argument("--play", action="store_true", help="play some tasks to check that reopened tasks are the same")
    add_task_options(parser)
    parser.add_argument("--index", type=at_least(0), default=0, help="the task's index (default: %(default)s)")


def check_command(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command."""
    make_client(arguments)  # reports an invalid URL
    work = check_server(
        arguments.url,
        env_name=arguments.env,
        split=arguments.split,
        index=arguments.index,
        secrets=secrets(arguments),
        play=arguments.play,
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
    say(console, f"{passed} passed, {failed} failed, {warned} recommendations not met, {skipped} skipped")
