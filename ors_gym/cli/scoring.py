"""Options shared by ``ors-gym eval`` and ``ors-gym rescore``: scoring rules and output files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ors_gym.cli.exits import InputError
from ors_gym.cli.output import say
from ors_gym.evaluation import Evaluation, Rules
from ors_gym.evaluation.outcomes import Prices
from ors_gym.evaluation.page import write_evaluation_page

__all__ = ["add_return_options", "add_scoring_options", "print_evaluation", "read_prices", "rules_of", "write_results"]


def add_return_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:  # pyright: ignore[reportPrivateUsage]
    """Add options for scoring an episode; returns their group."""
    scoring = parser.add_argument_group("scoring")
    option = scoring.add_argument
    option(
        "--reward",
        choices=["sum", "last", "max", "min", "mean"],
        default="sum",
        help="how an episode's rewards are reduced to its return (default: %(default)s)",
    )
    option(
        "--unrewarded", metavar="R", type=float, default=0.0, help="return of an episode without a reward (default: 0)"
    )
    option(
        "--success-at", metavar="R", type=float, default=1.0, help="the smallest return that is a success (default: 1)"
    )
    option("--cluster-by", metavar="FIELD", help="cluster errors by a field of the task, such as a document")
    return scoring


def add_scoring_options(parser: argparse.ArgumentParser) -> None:
    """Add options for scoring episodes and for verdicts."""
    option = add_return_options(parser).add_argument
    option("--metric", choices=["success", "return"], default="success", help="the quantity of verdicts and gates")
    option(
        "--population",
        choices=["tasks", "split"],
        default="tasks",
        help="of the interval: tasks like these, or this split",
    )
    verdict = parser.add_argument_group("verdict")
    verdict.add_argument("--compare", metavar="RUN", help="compare with the run in this folder or file")
    verdict.add_argument("--margin", metavar="D", type=float, help="report models as equal within this difference")
    verdict.add_argument(
        "--max-failed",
        metavar="SHARE",
        type=float,
        default=0.05,
        help="largest share of failed episodes with a verdict (default: %(default)s)",
    )
    verdict.add_argument(
        "--fail-below", metavar="X", type=float, help="exit with 1 unless the interval's lower end reaches X"
    )
    verdict.add_argument("--prices", metavar="FILE", help='JSON: {"MODEL": {"input_tokens": USD per million, …}}')


def rules_of(arguments: argparse.Namespace) -> Rules:
    """The rules from the options."""
    try:
        return Rules(
            reward=arguments.reward,
            unrewarded=arguments.unrewarded,
            success_at=arguments.success_at,
            metric=arguments.metric,
            max_failed=arguments.max_failed,
            cluster_by=arguments.cluster_by,
            population="split" if arguments.population == "split" else "tasks like these",
            margin=arguments.margin,
        )
    except ValueError as error:
        raise InputError(str(error)) from None


def read_prices(path: str | None) -> Prices:
    """The prices in a file; empty without one."""
    if path is None:
        return {}
    try:
        wire: Any = json.loads(Path(path).read_text(encoding="utf-8"))
        return {str(model): {str(kind): float(price) for kind, price in each.items()} for model, each in wire.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"--prices {path}: {error}") from None


def write_results(evaluation: Evaluation, folder: Path, *, hidden: Sequence[str] = ()) -> None:
    """Write ``summary.json`` and ``report.html`` to the run's folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(evaluation.to_json(), indent=1, allow_nan=False, ensure_ascii=False)
        (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
        write_evaluation_page(folder / "report.html", evaluation, secrets=hidden)
    except OSError as error:
        raise InputError(f"--out: {error}") from None


def print_evaluation(console: Console, evaluation: Evaluation, fail_below: float | None) -> None:
    """Print the results as text."""
    for line in evaluation.summary(fail_below=fail_below).split("\n"):
        say(console, line)
