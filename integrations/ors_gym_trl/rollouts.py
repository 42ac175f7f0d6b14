"""ORS episodes as what ``GRPOTrainer`` takes: a dataset of tasks, a rollout function, a reward function."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Self, cast

import torch
from datasets import Dataset
from trl import GRPOTrainer

from ors_gym.actions import ActionParser, action_parser
from ors_gym.advantages import Reduction, trajectory_return
from ors_gym.portal import Portal
from ors_gym.rollout import EpisodeHost, EpisodeRunner, FailurePolicy, RolloutLimits, run_all, run_group
from ors_gym.tasks import load_tasks
from ors_gym.trajectory import TaskRef, Trajectory, TrajectoryGroup
from ors_gym_trl.checks import check_sampling, check_trainer
from ors_gym_trl.generation import ModelSampler
from ors_gym_trl.metrics import rollout_metrics
from ors_gym_trl.policy import TokenPolicy
from ors_gym_trl.tokens import ChatTokenizer, TokenRecord

__all__ = ["ORSRollouts", "RolloutBatch"]

TASK_KEY = "ors"
"""Where a prompt's message carries its task: TRL hands a rollout function prompts only, and keeps unknown keys."""


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """One call of ``rollout_func``: its groups in the trainer's order, what they cost, and at which step."""

    step: int
    training: bool
    groups: tuple[TrajectoryGroup, ...]
    returns: tuple[float | None, ...]
    """One per episode, in the trainer's order; None where it must not be scored."""
    seconds: float
    sampling_seconds: float
    """The part of ``seconds`` in which the model sampled."""
    sampled_tokens: int
    """Tokens the model wrote in all episodes."""

    @property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """All members of all groups."""
        return tuple(member for group in self.groups for member in group.members)


class ORSRollouts:
    """Trains a model on ORS episodes with TRL's own ``GRPOTrainer``.

    ::

        rollouts = ORSRollouts("http://localhost:8080", env_name="wordle", split="train")
        GRPOTrainer(
            model=model,
            args=args,
            train_dataset=rollouts.train_dataset,
            rollout_func=rollouts.rollout_func,
            reward_funcs=rollouts.reward_funcs,
        ).train()

    Every prompt of a batch is played at once, each in a session of its own; the model is asked for whichever turns are
    ready. The tokens trained on are the tokens sampled. An episode that the world broke is played again; if that does
    not help it is left out: its reward is None and its tokens are masked, so it moves neither weights nor baseline.

    Args:
        url: The ORS server.
        env_name: The environment to train on.
        split: Where the training tasks come from.
        eval_split: Where ``eval_dataset`` comes from; None for no evaluation.
        tasks: Training tasks instead of a whole split: indices of it, or ``TaskRef``.
        max_tasks: At most so many tasks of each split.
        limits: When an episode is cut short. Its tokens are limited by the trainer's ``max_completion_length``.
        failures: What becomes of a group when the world breaks its episodes.
        reward: How step rewards become an episode's return: ``sum``, ``last``, ``max``, ``min``, ``mean``, a callable.
        truncated_reward: Counts as one more reward of an episode that ran into a limit; None adds nothing.
        stopped_reward: Likewise of an episode that the model ended by a plain message, where there is no terminal tool.
        host: Who plays the episodes, such as an ``ors_gym_ray.RolloutPool``; None plays them in this process.
            A host has limits and secrets of its own.
        parser: How the model writes tool calls (see :mod:`ors_gym.actions`).
        max_turn_tokens: Tokens the model may write in one turn; None leaves only ``max_completion_length``.
        template_options: Further variables of the chat template, such as ``enable_thinking``.
        secrets: Passed to each session; never logged, never in a trajectory.
        client_options: Further arguments of the :class:`~ors_gym.client.ORSClient` (``api_key``, ``timeouts``, …).
    """

    def __init__(
        self,
        url: str,
        *,
        env_name: str,
        split: str = "train",
        eval_split: str | None = None,
        tasks: Iterable[int | TaskRef] | None = None,
        max_tasks: int | None = None,
        limits: RolloutLimits | None = None,
        failures: FailurePolicy | None = None,
        reward: Reduction = "sum",
        truncated_reward: float | None = None,
        stopped_reward: float | None = None,
        host: EpisodeHost | None = None,
        parser: str | ActionParser = "hermes",
        max_turn_tokens: int | None = None,
        template_options: Mapping[str, Any] | None = None,
        secrets: Mapping[str, str] | None = None,
        client_options: Mapping[str, Any] | None = None,
    ) -> None:
        if host is not None and (limits is not None or secrets is not None):
            raise ValueError("limits and secrets belong to the host that plays the episodes: give them to it")
        self.env_name = env_name
        self.split = split
        self.eval_split = eval_split
        self._tasks = None if tasks is None else [self._task_ref(task) for task in tasks]
        self._max_tasks = max_tasks
        self._failures = failures
        self._reduction: Reduction = reward
        self._truncated_reward = truncated_reward
        self._stopped_reward = stopped_reward
        self._parser = action_parser(parser)
        self._max_turn_tokens = max_turn_tokens
        self._template_options = template_options
        self.listeners: list[Callable[[RolloutBatch], None]] = []
        """Called with each :class:`RolloutBatch`, for reports and logs."""
        self._portal = Portal()
        self._client = self._portal.client(url, **(client_options or {}))
        self._host: EpisodeHost = host or EpisodeRunner(self._client, limits=limits, secrets=secrets)
        self._tokenizer: ChatTokenizer | None = None
        self._sampling_checked = False
        self._metrics: dict[str, float] = {}

    @cached_property
    def train_dataset(self) -> Dataset:
        """One row per training task, as ``GRPOTrainer(train_dataset=…)`` takes it.

        Raises the client's errors when the server cannot be reached or has no such environment or split.
        """
        tasks = self._tasks if self._tasks is not None else self._load(self.split)
        return _dataset(tasks[: self._max_tasks])

    @cached_property
    def eval_dataset(self) -> Dataset | None:
        """One row per task of ``eval_split``; None without one."""
        return None if self.eval_split is None else _dataset(self._load(self.eval_split))

    @property
    def reward_funcs(self) -> list[Any]:
        """The episodes' returns, as ``GRPOTrainer(reward_funcs=…)`` takes them. Append your own if you like."""
        return [self.ors_return]

    def rollout_func(self, prompts: list[Any], trainer: GRPOTrainer) -> dict[str, list[Any]]:
        """Play one episode per prompt, as ``GRPOTrainer(rollout_func=…)`` calls it.

        Prompts come repeated ``num_generations`` times; neighbours with one task are played as a group.
        """
        started = time.monotonic()
        if self._tokenizer is None:
            check_trainer(trainer)
            tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
            self._tokenizer = ChatTokenizer(tokenizer, self._template_options)
        tasks = [_task_of(prompt) for prompt in prompts]
        policy = TokenPolicy(
            self._tokenizer,
            self._parser,
            max_completion_tokens=cast("Any", trainer.args).max_completion_length,
            max_context_tokens=_positions(trainer),
            max_turn_tokens=self._max_turn_tokens,
        )
        with ModelSampler(trainer).open() as sampler:
            groups = self._play(tasks, policy, sampler)
            returns = [self._return_of(group, member) for group in groups for member in group.members]
            self._raise_if_all_failed(groups)
            rows = [
                self._row(policy.records.get(member.episode_id), scored=score is not None)
                for member, score in zip((m for g in groups for m in g.members), returns, strict=True)
            ]
            if not self._sampling_checked:
                check_sampling(sampler, rows)
                self._sampling_checked = True
        batch = RolloutBatch(
            step=trainer.state.global_step,
            training=cast("torch.nn.Module", trainer.model).training,
            groups=tuple(groups),
            returns=tuple(returns),
            seconds=time.monotonic() - started,
            sampling_seconds=sampler.seconds,
            sampled_tokens=sum(sum(row.mask) for row in rows),
        )
        self._metrics = rollout_metrics(batch)
        for listener in self.listeners:
            listener(batch)
        return {
            "prompt_ids": [row.prompt_ids for row in rows],
            "completion_ids": [row.completion_ids for row in rows],
            "logprobs": [row.logprobs for row in rows],
            "env_mask": [row.mask for row in rows],
            "ors_return": returns,
        }

    def ors_return(self, ors_return: list[float | None], **columns: Any) -> list[float | None]:
        """The reward function: the returns that :meth:`rollout_func` handed on, None where there is none to score."""
        log_metric = columns.get("log_metric")
        if log_metric is not None:
            for name, value in self._metrics.items():
                log_metric(name, value)
        return ors_return

    def close(self) -> None:
        """Close the client and the event-loop thread. A host that was passed in stays open."""
        if self._portal.usable:
            self._portal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _play(self, tasks: Sequence[TaskRef], policy: TokenPolicy, sampler: ModelSampler) -> list[TrajectoryGroup]:
        """Play on the event loop while this thread, the trainer's, samples."""
        groups = [(task, len(list(same))) for task, same in itertools.groupby(tasks)]
        playing = self._portal.run(self._start(groups, policy))
        try:
            policy.serve(sampler)
            return playing.result()
        finally:
            # Ctrl-C, or a fault of the model: the episodes end now, and close their sessions.
            self._portal.run(_cancel(playing))

    async def _start(
        self, groups: Sequence[tuple[TaskRef, int]], policy: TokenPolicy
    ) -> asyncio.Task[list[TrajectoryGroup]]:
        playing = asyncio.create_task(
            run_all(run_group(self._host, task, size, policy=policy, failures=self._failures) for task, size in groups)
        )
        playing.add_done_callback(lambda _: policy.stop_serving())
        return playing

    def _return_of(self, group: TrajectoryGroup, member: Trajectory) -> float | None:
        if group.dropped:
            return None
        return trajectory_return(
            member,
            self._reduction,
            truncated_reward=self._truncated_reward,
            stopped_reward=self._stopped_reward,
        )

    def _row(self, record: TokenRecord | None, *, scored: bool) -> TokenRecord:
        """The record as the trainer takes it: never empty, ending with a sampled token; masked where not scored."""
        assert self._tokenizer is not None
        end_of_sequence = self._tokenizer.eos_token_id
        if record is None or not any(record.mask) or not scored:
            prompt_ids = record.prompt_ids if record is not None else [end_of_sequence]
            return TokenRecord(prompt_ids, [end_of_sequence], [0.0], [0])
        record.drop_trailing_environment()
        return record

    def _raise_if_all_failed(self, groups: Sequence[TrajectoryGroup]) -> None:
        failures = [failure for group in groups for failure in group.failures]
        if failures and all(member.failed for group in groups for member in group.members):
            raise RuntimeError(
                f"every episode of this batch failed, {len(failures)} attempts in all; nothing was trained on. "
                f"The last one: {failures[-1].kind}: {failures[-1].message}"
            )

    def _task_ref(self, task: int | TaskRef) -> TaskRef:
        return task if isinstance(task, TaskRef) else TaskRef(self.env_name, self.split, task)

    def _load(self, split: str) -> list[TaskRef]:
        return list(self._portal.run(load_tasks(self._client, self.env_name, split, limit=self._max_tasks)))


def _dataset(tasks: Sequence[TaskRef]) -> Dataset:
    """Rows whose prompt names the task to a reader and carries it to the rollout function."""
    if not tasks:
        raise ValueError("there are no tasks to train on: the split is empty, or tasks=[] or max_tasks=0 was given")
    prompts = [
        [
            {
                "role": "user",
                "content": str(task),
                TASK_KEY: {
                    "env_name": task.env_name,
                    "split": task.split,
                    "index": task.index,
                    "task": None if task.task is None else json.dumps(dict(task.task), sort_keys=True),
                },
            }
        ]
        for task in tasks
    ]
    return Dataset.from_dict({"prompt": prompts})


def _task_of(prompt: Any) -> TaskRef:
    try:
        reference = prompt[-1][TASK_KEY]
        task = reference["task"]
        return TaskRef(
            reference["env_name"], reference["split"], reference["index"], None if task is None else json.loads(task)
        )
    except (TypeError, KeyError, IndexError):
        raise ValueError(
            f"a prompt without an ORS task reached rollout_func: {str(prompt)[:200]!r}. "
            "Pass the same ORSRollouts' train_dataset (or eval_dataset) to the trainer."
        ) from None


def _positions(trainer: GRPOTrainer) -> int:
    """How many tokens the model has positions for."""
    config = cast("Any", trainer.accelerator.unwrap_model(trainer.model)).config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or sys.maxsize)


async def _cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task, unless it is over, and wait until it has cleaned up."""
    if task.cancel():
        await asyncio.wait([task])
