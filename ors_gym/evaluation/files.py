"""Reading recorded runs and scoring them by any rules, without calling a model or a server."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from ors_gym.evaluation.outcomes import Outcomes, outcome_of, tokens_of
from ors_gym.evaluation.rules import Rules
from ors_gym.evaluation.task_plan import TaskIdentity
from ors_gym.reporting.records import TrajectoryRecord, read_records

__all__ = ["FilePath", "model_of", "outcomes_by_model", "read_scored", "run_file"]

FilePath = str | os.PathLike[str]
RECORDS = "run.jsonl"
"""Name of the record file in a run's folder."""


def run_file(path: FilePath) -> Path:
    """The record file: ``path`` itself, or the one in a run's folder.

    Raises:
        FileNotFoundError: there is no such file.
    """
    found = Path(path) / RECORDS if Path(path).is_dir() else Path(path)
    if not found.is_file():
        raise FileNotFoundError(f"there is no file {found}")
    return found


def read_scored(path: FilePath) -> Iterator[tuple[TrajectoryRecord, TaskIdentity, int]]:
    """Read the episodes of a file with their tasks and epochs, without superseded attempts.

    A later episode of the same model, task and epoch replaces an earlier one: ``retry_failed`` played it again.
    """
    return (episode for episode in _episodes(path) if not _is_superseded(episode[0]))


def _is_superseded(record: TrajectoryRecord) -> bool:
    """Whether the record is a failed attempt that was retried at once."""
    return bool(record.note.get("superseded"))


def _episodes(path: FilePath) -> Iterator[tuple[TrajectoryRecord, TaskIdentity, int]]:
    played: dict[tuple[str, str], int] = defaultdict(int)
    for record in read_records(path):
        note, task = record.note, record.trajectory.task
        label = str(note.get("task") or (f"{task.split}[{task.index}]" if task.task is None else task))
        key = model_of(record), label
        epoch = note.get("epoch")
        epoch = played[key] if not isinstance(epoch, int) else epoch
        played[key] += not _is_superseded(record)
        fields = cast("dict[str, Any]", note.get("fields") or {})
        identity = TaskIdentity(label, note.get("task_sha256"), {name: str(value) for name, value in fields.items()})
        yield record, identity, epoch


def model_of(record: TrajectoryRecord) -> str:
    """The name of the model; in files of ``ors-gym rollout``, that of the policy."""
    return str(record.run.get("model") or record.run.get("policy") or "model")


def outcomes_by_model(path: FilePath, rules: Rules) -> dict[str, Outcomes]:
    """The outcomes in a file by model, in order of first appearance.

    Raises:
        OSError, ValueError: the file cannot be read, or is not a record file.
    """
    found: dict[str, Outcomes] = {}
    for record, identity, epoch in _episodes(path):
        model = model_of(record)
        if model not in found:
            found[model] = Outcomes(model, rules, dict(record.run))
        if _is_superseded(record):
            found[model].count_tokens(tokens_of(record.trajectory))
            continue
        failed = len(record.failures) if record.group_size == 1 else record.trajectory.attempt
        failed = max(failed, int(record.trajectory.failed))
        found[model].add(outcome_of(record.trajectory, identity, epoch, rules, failed_attempts=failed))
    return found
