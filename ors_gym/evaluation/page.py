"""An evaluation as one HTML page: estimates, comparisons, and every episode by task, model and epoch."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ors_gym.evaluation.comparison import Comparison
from ors_gym.evaluation.evaluation import Evaluation
from ors_gym.evaluation.files import model_of, read_scored
from ors_gym.evaluation.outcomes import Outcome, place_of
from ors_gym.evaluation.results import ModelResult
from ors_gym.evaluation.statistics import Estimate
from ors_gym.evaluation.words import play_of
from ors_gym.reporting.html import packed, write_page
from ors_gym.reporting.page import ContentLimits, PageContent, Sample, episode_to_page
from ors_gym.reporting.provenance import path_from, provenance

__all__ = ["EvaluationPageLimits", "write_evaluation_page"]

SCRIPTS = ("elements.js", "episodes.js", "evaluation.js")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPageLimits(ContentLimits):
    """Limits of the page's content; the run's file has the rest."""

    episode_bytes: int = 64_000_000
    """Compressed size of all episodes together. The page has every episode's outcome even beyond this limit."""


def write_evaluation_page(
    path: str | os.PathLike[str],
    evaluation: Evaluation,
    *,
    secrets: Iterable[str] = (),
    limits: EvaluationPageLimits = EvaluationPageLimits(),
) -> Path:
    """Write the page to ``path``, replacing an existing file, and return the path.

    Episodes are read from the run's files one at a time, so memory does not grow with the run.
    """
    content = PageContent(secrets, limits)
    blocks: dict[tuple[str, str, int], int] = {}
    names = ", ".join(result.name for result in evaluation.results)
    where = ":".join(str(evaluation.results[0].about.get(name, "")) for name in ("env", "split"))
    title = f"{names} on {where}"
    own = [file for name, (file, _) in evaluation.files.items() if name not in {each.name for each in evaluation.base}]
    records = path_from(path, own[0]) if own else ""
    return write_page(
        path,
        title=content.masked(title),
        data=lambda: _data(evaluation, title, blocks, content, records),
        scripts=SCRIPTS,
        blocks=_blocks(evaluation, blocks, content, limits.episode_bytes),
    )


def _blocks(
    evaluation: Evaluation, numbers: dict[tuple[str, str, int], int], content: PageContent, max_bytes: int
) -> Iterator[str]:
    """Yield every episode, compressed, and enter its block number in ``numbers``."""
    wanted: dict[Path, dict[str, str]] = defaultdict(dict)
    for result, (path, model) in evaluation.files.items():
        wanted[path][model] = result
    for path, names in wanted.items():
        if not path.is_file():
            continue
        for record, task, epoch in read_scored(path):
            name = names.get(model_of(record))
            if name is None:
                continue
            label = f"{name}, epoch {epoch + 1}"
            text = packed(episode_to_page(Sample(record.trajectory, label=label), content))
            max_bytes -= len(text)
            if max_bytes < 0:
                return
            numbers[name, task.label, epoch] = len(numbers)
            yield text


def _data(
    evaluation: Evaluation,
    title: str,
    blocks: Mapping[tuple[str, str, int], int],
    content: PageContent,
    records: str,
) -> dict[str, Any]:
    results = (*evaluation.results, *evaluation.base)
    labels = sorted({task.task for result in results for task in result.scores}, key=place_of)
    places = {label: place for place, label in enumerate(labels)}
    stops: dict[str, int] = {}
    rows: list[list[Any]] = []
    for number, result in enumerate(results):
        outcomes = evaluation.outcomes.get(result.name)
        for outcome in outcomes.all if outcomes is not None else ():
            stop = stops.setdefault(outcome.stop_reason, len(stops))
            block = blocks.get((result.name, outcome.task.label, outcome.epoch), -1)
            rows.append([number, places[outcome.task.label], *_row(outcome), stop, block])
    return {
        "title": content.masked(title),
        "ended": evaluation.ended,
        "complete": evaluation.complete,
        "metric": evaluation.rules.metric,
        "successAt": evaluation.rules.success_at,
        "summary": content.masked(evaluation.summary()),
        "models": [_model(result, content) for result in results],
        "numOwn": len(evaluation.results),
        "comparisons": [_comparison(each, content) for each in evaluation.comparisons],
        "tasks": [content.masked(label) for label in labels],
        "stops": list(stops),
        "episodes": rows,
        "settings": [
            [content.masked(name), content.setting(name, value)]
            for name, value in {**evaluation.rules.to_json(), **evaluation.settings}.items()
        ],
        "provenance": [[name, content.masked(value)] for name, value in provenance().items()],
        "records": content.masked(records),
    }


def _row(outcome: Outcome) -> list[Any]:
    return [
        outcome.epoch,
        outcome.value,
        int(outcome.unrewarded),
        outcome.failed_attempts,
        outcome.turns,
        round(outcome.seconds, 2),
    ]


def _model(result: ModelResult, content: PageContent) -> dict[str, Any]:
    return {
        "name": content.masked(result.name),
        "sentence": content.masked(result.sentence()),
        "played": play_of(result.scores),
        "counts": result.counts,
        "tooManyFailed": result.too_many_failed,
        "main": _estimate(result.main),
        "success": _estimate(result.success),
        "return": _estimate(result.mean_return),
        "withFailures": result.interval_with_failures,
        "passes": {name: _estimate(estimate) for name, estimate in result.passes.items()},
        "groups": {content.masked(name): value for name, value in result.main.groups.items()},
        "usage": result.usage,
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    wire = estimate.to_json()
    return {name: wire[name] for name in ("value", "interval", "method", "tasks", "episodes", "notes")}


def _comparison(comparison: Comparison, content: PageContent) -> dict[str, Any]:
    return {
        "base": content.masked(comparison.base),
        "other": content.masked(comparison.other),
        "verdict": str(comparison.verdict),
        "sentence": content.masked(comparison.sentence()),
        "value": comparison.difference.value,
        "interval": comparison.difference.interval,
        "better": [content.masked(flip.task) for flip in comparison.flips if flip.difference > 0],
        "worse": [content.masked(flip.task) for flip in comparison.flips if flip.difference < 0],
        "equal": comparison.equal,
        "tests": {test.name: test.p for test in comparison.tests},
    }
