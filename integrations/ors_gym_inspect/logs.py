"""Runs of ``ors-gym eval`` and ``ors-gym rollout`` as Inspect logs.

There is one log per model. A task is a sample, identified by its index in the split. A failed episode is a sample with
an error and without a score; an episode without a reward has the score that the rules define. The mean and standard
error that Inspect computes equal those of ``summary.json``.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalError,
    EvalLog,
    EvalPlan,
    EvalPlanStep,
    EvalResults,
    EvalSample,
    EvalSpec,
    EvalStats,
    recompute_metrics,
    write_eval_log,
)
from inspect_ai.model import ModelOutput, ModelUsage

from ors_gym.evaluation.files import FilePath, model_of, read_scored, run_file
from ors_gym.evaluation.outcomes import place_of
from ors_gym.evaluation.rules import Rules
from ors_gym.evaluation.task_plan import TaskIdentity
from ors_gym.policies.names import ToolNames
from ors_gym.reporting.records import TrajectoryRecord
from ors_gym.rollouts.returns import trajectory_return
from ors_gym.trajectory import Trajectory
from ors_gym_inspect.messages import agent_message, answers, chat_messages, usage_of
from ors_gym_inspect.scoring import scores

__all__ = ["inspect_logs", "write_inspect_logs"]

RETURN, SUCCESS = "episode_return", "episode_success"


def write_inspect_logs(run: FilePath, folder: FilePath, rules: Rules | None = None) -> list[Path]:
    """Write a log for each model of a run to ``folder``, for ``inspect view --log-dir FOLDER``.

    Raises:
        OSError, ValueError: the run cannot be read, or has no episode.
    """
    paths: list[Path] = []
    Path(folder).mkdir(parents=True, exist_ok=True)
    for log in inspect_logs(run, rules):
        created = datetime.fromisoformat(log.eval.created).strftime("%Y-%m-%dT%H-%M-%S+00-00")
        path = Path(folder) / f"{created}_{_plain(log.eval.task)}_{_plain(log.eval.model)}.eval"
        write_eval_log(log, os.fspath(path))
        paths.append(path)
    return paths


def inspect_logs(run: FilePath, rules: Rules | None = None) -> list[EvalLog]:
    """A log for each model of a run, given by its folder or record file.

    Raises:
        OSError, ValueError: the run cannot be read, or has no episode.
    """
    path, rules = run_file(run), rules or Rules()
    samples: dict[str, dict[tuple[str, int], EvalSample]] = defaultdict(dict)
    about: dict[str, TrajectoryRecord] = {}
    for record, task, epoch in read_scored(path):
        model = model_of(record)
        about.setdefault(model, record)
        # The last one counts: --retry-failed may have played it again.
        samples[model][task.label, epoch] = _sample(record, model, task, epoch, rules)
    if not samples:
        raise ValueError(f"{path} has no episode")
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return [_log(model, about[model], list(samples[model].values()), written, rules) for model in samples]


def _log(model: str, first: TrajectoryRecord, samples: Sequence[EvalSample], written: str, rules: Rules) -> EvalLog:
    run: Mapping[str, Any] = first.run
    task = first.trajectory.task
    ids = sorted({str(sample.id) for sample in samples}, key=place_of)
    samples = sorted(samples, key=lambda sample: (sample.epoch, place_of(str(sample.id))))
    metrics = [{"name": "inspect_ai/mean"}, _stderr(rules)]
    # JSON, as Inspect has no public class for them.
    scorers: list[Any] = [{"name": SUCCESS, "metrics": metrics}, {"name": RETURN, "metrics": metrics}]
    usage = [sample.model_usage[model] for sample in samples if model in sample.model_usage]
    total = usage[0] if usage else ModelUsage()
    for each in usage[1:]:
        total = total + each
    log = EvalLog(
        status="success",
        eval=EvalSpec(
            created=written,
            task=f"ors/{task.env_name}",
            task_id=f"ors/{task.env_name}:{task.split}",
            run_id=first.group_id,
            task_args={key: value for key, value in run.items() if key in ("split", "seed", "max_turns", "epochs")},
            dataset=EvalDataset(
                name=f"{task.env_name}:{task.split}", samples=len(ids), sample_ids=list(ids), shuffled=False
            ),
            model=model,
            config=EvalConfig(epochs=max(sample.epoch for sample in samples), epochs_reducer=["mean"]),
            packages={"ors_gym": str(run.get("ors_gym", ""))} if run.get("ors_gym") else {},
            metadata={**dict(run), "rules": dict(rules.to_json())},
            scorers=scorers,
        ),
        plan=EvalPlan(steps=[EvalPlanStep(solver="ors_gym", params={"max_turns": run.get("max_turns")})]),
        results=EvalResults(
            total_samples=max(len(samples), int(run.get("episodes") or 0)),
            completed_samples=sum(sample.error is None for sample in samples),
        ),
        stats=EvalStats(started_at=written, completed_at=written, model_usage={model: total} if usage else {}),
        samples=list(samples),
    )
    recompute_metrics(log)
    return log


def _stderr(rules: Rules) -> dict[str, Any]:
    clustered = {} if rules.cluster_by is None else {"options": {"cluster": rules.cluster_by}}
    return {"name": "inspect_ai/stderr", **clustered}


def _sample(record: TrajectoryRecord, model: str, task: TaskIdentity, epoch: int, rules: Rules) -> EvalSample:
    episode = record.trajectory
    names = ToolNames(())
    messages = chat_messages(episode.prompt, names)
    output = ModelOutput(model=model)
    for exchange in episode.exchanges:
        message = agent_message(exchange.said(), names, model)
        calls = [(call.id, call.function) for call in message.tool_calls or ()]
        messages += [message, *answers(exchange, calls)]
        output = ModelOutput.from_message(message)
    usage = usage_of(exchange.reply for exchange in episode.exchanges)
    where = {"env_name": episode.task.env_name, "split": episode.task.split, "index": episode.task.index}
    return EvalSample(
        id=task.label,
        epoch=epoch + 1,
        input=str(episode.task),
        target="",
        messages=messages,
        output=output,
        scores=None if episode.failed else _scores(episode, rules),
        error=_error(episode),
        metadata={**task.fields, **where, "task_sha256": task.sha256, "attempt": episode.attempt},
        model_usage={} if usage is None else {model: usage},
        total_time=episode.seconds,
        uuid=episode.episode_id,
    )


def _scores(episode: Trajectory, rules: Rules) -> dict[str, Any]:
    value = trajectory_return(episode, rules.reward, unrewarded_return=None)
    about: dict[str, object] = {"rewards": list(episode.rewards), "stop_reason": str(episode.stop_reason)}
    episode_return, success = scores(value, rules.unrewarded, rules.success_at, about)
    return {SUCCESS: success, RETURN: episode_return}


def _error(episode: Trajectory) -> EvalError | None:
    if episode.failure is None:
        return None
    text = f"{episode.failure.kind}: {episode.failure.message}"
    return EvalError(message=text, traceback=text, traceback_ansi=text)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-") or "run"
