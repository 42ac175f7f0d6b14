"""``ors-gym rescore``: score a recorded run by other rules, without calling a model or a server."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from ors_gym.cli.exits import InputError
from ors_gym.cli.scoring import add_scoring_options, print_evaluation, read_prices, rules_of, write_results
from ors_gym.evaluation import score_file

__all__ = ["HELP", "add_options", "rescore_command"]

HELP = """\
Score the episodes of a run by other rules. Nothing is played, and the run's files are not changed.

  ors-gym rescore runs/mini --reward last
  ors-gym rescore runs/mini --success-at 0.5 --compare runs/last-week --fail-below 0.6
  ors-gym rescore rollouts.jsonl --metric return --out runs/scored
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("run", metavar="RUN", help="a run's folder or record file")
    add_scoring_options(parser)
    parser.add_argument("--out", metavar="DIR", help="write summary.json and report.html here")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON, and nothing else")


def rescore_command(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command."""
    try:
        prices = read_prices(arguments.prices)
        evaluation = score_file(arguments.run, rules_of(arguments), base=arguments.compare, prices=prices)
    except (OSError, ValueError) as error:
        raise InputError(str(error)) from None
    if arguments.out:
        write_results(evaluation, Path(arguments.out))
    if arguments.json:
        print(json.dumps(evaluation.to_json(), allow_nan=False))
    else:
        print_evaluation(console, evaluation, arguments.fail_below)
    return evaluation.status(arguments.fail_below)
