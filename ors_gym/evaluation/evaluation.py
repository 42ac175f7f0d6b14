"""An evaluation as data: the results of its models, their comparisons, and their text and JSON forms."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ors_gym.evaluation.comparison import Comparison, Verdict
from ors_gym.evaluation.files import FilePath, outcomes_by_model, run_file
from ors_gym.evaluation.outcomes import TOKENS, Outcomes, Prices
from ors_gym.evaluation.pairing import compare_pairs
from ors_gym.evaluation.results import ModelResult
from ors_gym.evaluation.rules import Rules
from ors_gym.evaluation.words import Scale, counted

__all__ = ["Evaluation", "compare", "make_evaluation", "score_file"]

FINISHED = "finished"


@dataclass(frozen=True)
class Evaluation:
    """The results of one or more models, and comparisons between them or with a base."""

    results: tuple[ModelResult, ...]
    comparisons: tuple[Comparison, ...] = ()
    base: tuple[ModelResult, ...] = ()
    """Results of the base, from another run."""
    rules: Rules = field(default_factory=Rules)
    ended: str = FINISHED
    """How the run ended: ``finished``, ``interrupted``, or which budget was spent."""
    outcomes: Mapping[str, Outcomes] = field(default_factory=dict[str, Outcomes])
    """All outcomes by result name, including those of the base."""
    files: Mapping[str, tuple[Path, str]] = field(default_factory=dict[str, tuple[Path, str]])
    """The record file of each result, and the model's name in that file."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The settings of the run."""
    seconds: float | None = None

    @property
    def complete(self) -> bool:
        """Whether every planned episode was played."""
        return self.ended == FINISHED and all(result.complete for result in self.results)

    @property
    def verdicts_given(self) -> bool:
        """Whether verdicts can be given: the run is complete, and no result has too many failures."""
        comparable = all(comparison.verdict is not Verdict.NOT_COMPARABLE for comparison in self.comparisons)
        return self.complete and comparable and not any(result.too_many_failed for result in self.results)

    def status(self, fail_below: float | None = None) -> int:
        """Exit status for CI: 0 for success, 1 for a missed gate, 3 if no verdict can be given."""
        if not self.verdicts_given:
            return 3
        if fail_below is not None and not all(result.gate(fail_below).met for result in self.results):
            return 1
        return 0

    def summary(self, *, fail_below: float | None = None) -> str:
        """The results as text: a paragraph for each model, then the comparisons and gates."""
        lines = [line for result in (*self.results, *self.base) for line in _result_lines(result)]
        if self.comparisons:
            lines += ["", *(comparison.sentence() for comparison in self.comparisons)]
            if len({comparison.num_comparisons for comparison in self.comparisons} - {1}):
                lines.append("Intervals are not adjusted for the number of comparisons; p values are.")
        if fail_below is not None:
            lines += ["", *(result.gate(fail_below).sentence for result in self.results)]
        if self.ended != FINISHED:
            lines += ["", f"The run ended early ({self.ended}): there is no verdict."]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """All numbers as JSON; undefined ones are null."""
        return {
            "format": "ors-gym/evaluation",
            "version": 1,
            "ended": self.ended,
            "complete": self.complete,
            "verdict": self.verdicts_given,
            "rules": dict(self.rules.to_json()),
            "settings": dict(self.settings),
            "seconds": self.seconds,
            "models": [result.to_json() for result in self.results],
            "base": [result.to_json() for result in self.base],
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
        }


def _result_lines(result: ModelResult) -> list[str]:
    lines = [result.sentence()]
    scale = Scale(result.rules)
    other = result.mean_return if scale.is_rate else result.success
    if other.value is not None and other != result.main:
        name = "mean return" if scale.is_rate else f"success rate (return of at least {result.rules.success_at:g})"
        interval = (
            "" if other.interval is None else f", 95 % interval {other.interval[0]:.3g} to {other.interval[1]:.3g}"
        )
        notes = "".join(f"; {note}" for note in other.notes)
        lines.append(f"  {name} {other.value:.3g} ({counted(other.tasks, 'task')}{interval}{notes})")
    passes = [
        f"{name} {estimate.value:.2f}"
        + (f" ({estimate.interval[0]:.2f} to {estimate.interval[1]:.2f})" if estimate.interval else "")
        for name, estimate in result.passes.items()
        if estimate.value is not None and not estimate.notes
    ]
    if passes:
        lines.append("  " + ", ".join(passes))
    for group, value in result.main.groups.items():
        lines.append(f"  {group}: {scale.value(value)}")
    used = [
        f"{name.removeprefix('mean_').replace('_', ' ')} {value:.3g}"
        for name, value in result.usage.items()
        if value is not None and name.startswith("mean_")
    ]
    totals = [
        f"{total:,.0f} {kind.replace('_', ' ')}" for kind in TOKENS if (total := result.usage.get(f"total_{kind}"))
    ]
    cost = result.usage.get("cost")
    if used:
        lines.append(f"  an episode: {', '.join(used)}")
    if totals:
        lines.append(f"  in all: {', '.join(totals)}" + (f", ${cost:.4g}" if cost else ""))
    return lines


def make_evaluation(
    outcomes: Mapping[str, Outcomes],
    rules: Rules,
    *,
    base: FilePath | None = None,
    prices: Prices | None = None,
    files: Mapping[str, tuple[Path, str]] | None = None,
    **options: Any,
) -> Evaluation:
    """Evaluate outcomes: compare all pairs of models, or each model with its base in the file ``base``.

    The base of a model is the model of the same name in that file, or the file's only model.


    Raises:
        ValueError: ``base`` has several models, and none of this name.
    """
    results = {name: each.result(name, prices) for name, each in outcomes.items()}
    everything, places = dict(outcomes), dict(files or {})
    if base is None:
        comparisons = compare_pairs(list(itertools.combinations(results.values(), 2)))
        return Evaluation(tuple(results.values()), comparisons, (), rules, outcomes=everything, files=places, **options)
    path = run_file(base)
    known = outcomes_by_model(path, rules)
    bases: dict[str, ModelResult] = {}
    pairs: list[tuple[ModelResult, ModelResult]] = []
    for name, result in results.items():
        if name not in known and len(known) != 1:
            raise ValueError(f"{path} has no model {name!r}; it has {', '.join(map(repr, known)) or 'none'}")
        model = name if name in known else next(iter(known))
        title = f"{model} in {path.parent.name if path.name == 'run.jsonl' else path.name}"
        if model not in bases:
            bases[model] = known[model].result(title, prices)
            everything[title], places[title] = known[model], (path, model)
        pairs.append((bases[model], result))
    return Evaluation(
        tuple(results.values()),
        compare_pairs(pairs),
        tuple(bases.values()),
        rules,
        outcomes=everything,
        files=places,
        **options,
    )


def score_file(
    path: FilePath, rules: Rules | None = None, *, base: FilePath | None = None, prices: Prices | None = None
) -> Evaluation:
    """Score a recorded run by ``rules``, without playing any episode.

    Raises:
        OSError, ValueError: a file cannot be read, or is not a record file.
    """
    rules, found = rules or Rules(), run_file(path)
    outcomes = outcomes_by_model(found, rules)
    if not outcomes:
        raise ValueError(f"{found} has no episode")
    files = {model: (found, model) for model in outcomes}
    return make_evaluation(outcomes, rules, base=base, prices=prices, files=files)


def compare(base: FilePath, others: FilePath | Sequence[FilePath], rules: Rules | None = None) -> Evaluation:
    """Compare the models of one or more runs with those of ``base``, from their record files.

    Raises:
        OSError, ValueError: a file cannot be read, or a model has no base.
    """
    rules = rules or Rules()
    paths = [run_file(path) for path in ([others] if isinstance(others, str | os.PathLike) else others)]
    outcomes: dict[str, Outcomes] = {}
    files: dict[str, tuple[Path, str]] = {}
    for path in paths:
        for model, each in outcomes_by_model(path, rules).items():
            name = model if model not in outcomes else f"{model} in {path}"
            outcomes[name], files[name] = each, (path, model)
    return make_evaluation(outcomes, rules, base=base, files=files)
