"""Evaluations during a training, by the rules of ``ors-gym eval`` (extras ``trl`` and ``eval``)."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from accelerate.utils import gather_object  # type: ignore[import-untyped]
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from ors_gym.evaluation import ModelResult, Rules
from ors_gym.evaluation.outcomes import Outcome, Outcomes, outcome_of
from ors_gym.evaluation.statistics import Estimate
from ors_gym.evaluation.task_plan import TaskIdentity, task_sha256
from ors_gym.reporting.records import TrajectoryWriter
from ors_gym.trajectory import TaskRef
from ors_gym_trl.batch import RolloutBatch
from ors_gym_trl.callbacks import BatchListener
from ors_gym_trl.rollouts import ORSRollouts

__all__ = ["EvaluationCallback", "StepEvaluation"]


@dataclass(frozen=True, slots=True)
class StepEvaluation:
    """The result of an evaluation."""

    step: int
    """The optimizer step that it was made at."""
    results: Mapping[str, ModelResult]
    """By the name of the source."""


class EvaluationCallback(BatchListener):
    """Evaluates as ``ors-gym eval`` does wherever the trainer evaluates, and keeps every trajectory.

    ::

        evaluations = EvaluationCallback(rollouts, "runs/mine/evaluations.jsonl")
        GRPOTrainer(…, eval_dataset=rollouts.eval_dataset, callbacks=[evaluations])

    The task is the unit of every error. To the trainer's logs, and so to its trackers, go ``eval_success_rate`` and
    ``eval_mean_return``, each with ``_low`` and ``_high``, the ends of its 95 % interval; the numbers of tasks and
    of episodes, failed ones apart. ``metric_for_best_model`` may name them. With several sources each has its name in
    between: ``eval_wordle_success_rate``.

    The file has each evaluation as a separate model, named after its step: ``ors-gym rescore FILE`` compares them,
    task by task, and writes the page. With several processes each writes its own file, as
    :class:`~ors_gym_trl.TrajectoryCallback` does, and the numbers are those of all.

    Args:
        rollouts: Whose batches to score.
        path: The file; None keeps no trajectory.
        rules: How episodes are scored; by default by the sources' ``reward`` and ``unrewarded_return``. Required if a
            source's ``reward`` is a function: files are scored again, and cannot hold one.
        secrets: Strings to blank out wherever they occur in the file.
    """

    def __init__(
        self,
        rollouts: ORSRollouts,
        path: str | os.PathLike[str] | None = None,
        *,
        rules: Rules | None = None,
        secrets: Iterable[str] = (),
    ) -> None:
        super().__init__(rollouts)
        self.evaluations: list[StepEvaluation] = []
        """All evaluations so far."""
        self._rules = rules
        self._path = None if path is None else Path(path)
        self._secrets = tuple(secrets)
        self._batches: list[RolloutBatch] = []

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Listen from the beginning: ``trainer.evaluate()`` needs no training.

        Raises:
            ValueError: a source's ``reward`` is a function, and no rules were given.
        """
        for source in self._rollouts.names:
            self._rules_of(source)
        self.listen(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start listening again."""

    def _hear(self, batch: RolloutBatch) -> None:
        if not batch.training:
            self._batches.append(batch)
            self._write(batch)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Score the evaluation that has just ended, and log it."""
        batches, self._batches = self._batches, []
        played: list[tuple[str, Outcome]] = gather_object([pair for batch in batches for pair in self._outcomes(batch)])
        by_source: dict[str, Outcomes] = {}
        epochs: dict[tuple[str, str], int] = defaultdict(int)
        for source, outcome in played:
            known = by_source.setdefault(source, Outcomes(f"step {state.global_step}", self._rules_of(source), {}))
            key = source, outcome.task.label
            known.add(replace(outcome, epoch=epochs[key]))
            epochs[key] += 1
        if not by_source:
            return
        results = {source: outcomes.result() for source, outcomes in sorted(by_source.items())}
        self.evaluations.append(StepEvaluation(state.global_step, results))
        prefix = _prefix(metrics)
        numbers: dict[str, float] = {}
        for source, result in results.items():
            numbers |= _numbers(result, prefix if len(self._rollouts.sources) == 1 else f"{prefix}_{source}")
        if metrics is not None:
            metrics.update(numbers)
        trainer = self._rollouts.trainer
        if trainer is not None:
            Trainer.log(cast("Any", trainer), numbers)  # without TRL's, which prints its table of completions again

    def _rules_of(self, source: str) -> Rules:
        if self._rules is not None:
            return self._rules
        opened = self._rollouts.sources[source].source
        if callable(opened.reward):
            raise ValueError(
                f"the reward of {source!r} is a function, by which a file cannot be scored again: "
                "say how evaluations are scored, with EvaluationCallback(rules=Rules(reward=…))"
            )
        return Rules(reward=opened.reward, unrewarded=opened.unrewarded_return or 0.0)

    def _outcomes(self, batch: RolloutBatch) -> list[tuple[str, Outcome]]:
        return [
            (source, outcome_of(member, identity, 0, self._rules_of(source), failed_attempts=failed))
            for source, group in zip(batch.sources, batch.groups, strict=True)
            for identity in [_identity(group.task)]
            for member in group.members
            for failed in [member.attempt + member.failed]
        ]

    def _write(self, batch: RolloutBatch) -> None:
        if self._path is None:
            return
        path = self.path_of_process(self._path)
        for source, group in zip(batch.sources, batch.groups, strict=True):
            several = len(self._rollouts.sources) > 1
            model = f"step {batch.step}" + (f" on {source}" if several else "")
            identity = _identity(group.task)
            note = {"task": identity.label, "task_sha256": identity.sha256}
            server = self._rollouts.server_versions.get(source)
            about = {
                "server_version": server,
                "model": model,
                "env": group.task.env_name,
                "split": group.task.split,
                "step": batch.step,
            }
            with TrajectoryWriter(path, run=about, secrets=self._secrets) as writer:
                writer.write_group(group, note)


def _identity(task: TaskRef) -> TaskIdentity:
    label = f"{task.split}[{task.index}]" if task.by_index else str(task)
    return TaskIdentity(label, None if task.task is None else task_sha256(task.task))


def _prefix(metrics: Mapping[str, float] | None) -> str:
    """What the trainer's own numbers of this evaluation begin with; it names the data set where there are several."""
    return next((name.removesuffix("_runtime") for name in metrics or () if name.endswith("_runtime")), "eval")


def _numbers(result: ModelResult, prefix: str) -> dict[str, float]:
    numbers = _interval(f"{prefix}_success_rate", result.success) | _interval(
        f"{prefix}_mean_return", result.mean_return
    )
    counts = {name: result.counts[name] for name in ("tasks", "episodes", "failed", "unrewarded")}
    return numbers | {f"{prefix}_{name}": float(count) for name, count in counts.items()}


def _interval(name: str, estimate: Estimate) -> dict[str, float]:
    if estimate.value is None:
        return {}
    if estimate.interval is None:
        return {name: estimate.value}
    low, high = estimate.interval
    return {name: estimate.value, f"{name}_low": low, f"{name}_high": high}
