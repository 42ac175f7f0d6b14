"""Trainer callbacks that write an HTML page and the trajectories of a run."""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

from accelerate import PartialState  # type: ignore[import-untyped]
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ors_gym.reporting.page import Point, RunRecord, Sample, StepRecord, write_report
from ors_gym.reporting.records import TrajectoryWriter
from ors_gym.rollouts.returns import group_advantages
from ors_gym.trajectory import TrajectoryGroup
from ors_gym_trl import compat
from ors_gym_trl.batch import RolloutBatch
from ors_gym_trl.rollouts import ORSRollouts

__all__ = ["BatchListener", "ReportCallback", "TrajectoryCallback"]


CURVES = {
    "eval_success_rate": "evaluation: success rate",
    "eval_mean_return": "evaluation: mean return",
    "eval_reward": "evaluation: reward",
    "loss": "loss",
    "kl": "KL divergence",
    "entropy": "entropy",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
}
"""The numbers of the trainer's logs that the page draws, and what it calls them."""


class BatchListener(TrainerCallback):
    """Receives the batches of its trainer from the beginning to the end of one training."""

    def __init__(self, rollouts: ORSRollouts) -> None:
        self._rollouts = rollouts
        self._training: object = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start listening."""
        self.listen(state)

    def listen(self, state: TrainerState) -> None:
        """Listen to the batches of the trainer whose state this is."""
        self._training = state
        if self._hear_batch not in self._rollouts.listeners:
            self._rollouts.listeners.append(self._hear_batch)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop listening."""
        self._training = None
        if self._hear_batch in self._rollouts.listeners:
            self._rollouts.listeners.remove(self._hear_batch)

    def _hear_batch(self, batch: RolloutBatch) -> None:
        if batch.run is self._training:
            self._hear(batch)

    @staticmethod
    def path_of_process(path: Path) -> Path:
        """The file of this process: ``run.jsonl``, and with several processes ``run.1.jsonl`` in process 1."""
        process = PartialState()
        number = f".{process.process_index}" if process.num_processes > 1 else ""
        return path.with_name(f"{path.stem}{number}{path.suffix}")

    @abstractmethod
    def _hear(self, batch: RolloutBatch) -> None:
        """A batch was played."""


class ReportCallback(BatchListener):
    """Keeps a :class:`~ors_gym.reporting.page.RunRecord` of the training and writes it as one self-contained page.

    Args:
        rollouts: Whose batches to record.
        path: The page; None writes none.
        record: The record to fill: its title, settings and baseline are the caller's to set. None begins a new one.
        write_every_steps: Steps between two writes of the page; it is also written at the end.
        sample_every_steps: How often a whole group's trajectories are kept for the page.
        on_step: Called with each new :class:`~ors_gym.reporting.page.StepRecord`, for a progress display.
        secrets: Strings to mask wherever they occur on the page.
    """

    def __init__(
        self,
        rollouts: ORSRollouts,
        path: str | os.PathLike[str] | None,
        record: RunRecord | None = None,
        *,
        write_every_steps: int = 20,
        sample_every_steps: int = 10,
        on_step: Callable[[StepRecord], None] | None = None,
        secrets: Iterable[str] = (),
    ) -> None:
        super().__init__(rollouts)
        self.record = record or RunRecord(f"GRPO on {', '.join(rollouts.names)}")
        self._path = path
        self._write_every_steps = write_every_steps
        self._sample_every_steps = sample_every_steps
        self._on_step = on_step
        self._secrets = tuple(secrets)
        self._next_sample = 0
        self._batches: list[RolloutBatch] = []
        self._step_began = self._began = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start listening, and the clock."""
        super().on_train_begin(args, state, control, **kwargs)
        self._batches.clear()
        self._step_began = self._began = time.monotonic()
        self.record.total_steps = compat.batches_per_run(args, state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the trainer's own numbers, and results of evaluations with their intervals."""
        for name, title in CURVES.items():
            value = (logs or {}).get(name)
            if value is not None:
                ends = ((logs or {}).get(f"{name}_{end}") for end in ("low", "high"))
                self.record.curves.setdefault(title, []).append(Point(state.global_step, float(value), *ends))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record the step. A step that reuses the last batch (``num_iterations``) has no record."""
        batches = [batch for batch in self._batches if batch.training]
        self._batches.clear()
        now = time.monotonic()
        if batches:
            step = self._record_step(state.global_step, batches, now)
            if self._on_step is not None:
                self._on_step(step)
        elif self.record.steps:
            last = self.record.steps[-1]
            spent = (last.training_seconds or 0.0) + now - self._step_began
            self.record.steps[-1] = replace(last, seconds=now - self._began, training_seconds=spent)
        self._step_began = now
        if state.global_step % self._write_every_steps == 0:
            self.write()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop listening and write the page a last time."""
        super().on_train_end(args, state, control, **kwargs)
        self.record.ended = self.record.ended or "finished"
        self.write()

    def _hear(self, batch: RolloutBatch) -> None:
        self._batches.append(batch)

    def _record_step(self, number: int, batches: list[RolloutBatch], now: float) -> StepRecord:
        returns = {
            trajectory.episode_id: value
            for batch in batches
            for trajectory, value in zip(batch.trajectories, batch.returns, strict=True)
        }
        played = [t for batch in batches for t in batch.trajectories if not t.failed]
        rollout_seconds = sum(batch.seconds for batch in batches)
        sampling_seconds = sum(batch.sampling_seconds for batch in batches)
        step = StepRecord.from_groups(
            number,
            [group for batch in batches for group in batch.groups],
            seconds=now - self._began,
            score=lambda trajectory: returns[trajectory.episode_id],
            tokens=sum(batch.sampled_tokens for batch in batches) / max(len(played), 1),
            rollout_seconds=rollout_seconds,
            generation_seconds=sampling_seconds,
            environment_seconds=rollout_seconds - sampling_seconds,
            training_seconds=max(0.0, now - self._step_began - rollout_seconds),
        )
        self.record.steps.append(step)
        if batches[-1].groups and (not self.record.samples or number >= self._next_sample):
            self._next_sample = number + self._sample_every_steps
            self._keep_group(number, batches[-1].groups[0], returns)
        return step

    def _keep_group(self, number: int, group: TrajectoryGroup, returns: Mapping[str, float | None]) -> None:
        """Keep a whole group, because members are compared with each other."""
        values = [returns[member.episode_id] for member in group.members]
        advantages = group_advantages([nan if value is None else value for value in values])
        self.record.samples.extend(
            Sample(member, step=number, episode_return=value, advantage=float(advantage), group=str(group.task))
            for member, value, advantage in zip(group.members, values, advantages, strict=True)
        )

    def write(self) -> Path | None:
        """Write the page, also of an interrupted run; only the main process does."""
        return (
            None
            if self._path is None or not PartialState().is_main_process
            else write_report(self._path, self.record, secrets=self._secrets)
        )


class TrajectoryCallback(BatchListener):
    """Writes every episode that is trained or evaluated on during a training, groups that were replaced included.

    ``ors_gym.reporting.read_trajectories`` and ``to_dataset`` read the file back; each group's ``note`` has its
    ``step``. With several processes each writes its own file: ``run.jsonl`` becomes ``run.1.jsonl`` in process 1.

    Args:
        rollouts: Whose batches to write.
        path: The file; existing content is kept, so a resumed run continues it.
        run: Distinguishes this run from others; included in every line.
        secrets: Strings to blank out wherever they occur.
    """

    def __init__(
        self,
        rollouts: ORSRollouts,
        path: str | os.PathLike[str],
        *,
        run: Mapping[str, Any] | None = None,
        secrets: Iterable[str] = (),
    ) -> None:
        super().__init__(rollouts)
        self._path = Path(path)
        self._run = dict(run or {})
        self._secrets = tuple(secrets)

    def _hear(self, batch: RolloutBatch) -> None:
        path = self.path_of_process(self._path)
        note = {"step": batch.step}
        about = {"servers": self._rollouts.server_versions, **self._run}
        # Opened for each batch: a training that is interrupted tells no callback that it is over.
        with TrajectoryWriter(path, run=about, secrets=self._secrets) as writer:
            for group in batch.replaced_groups:
                writer.write_group(group, note)
            returns = iter(batch.returns)
            for group in batch.groups:
                writer.write_group(group, note, returns=[next(returns) for _ in group.members])
