"""ORS episodes as what ``GRPOTrainer`` takes: a dataset of tasks, a rollout function, reward functions."""

from __future__ import annotations

import asyncio
import itertools
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Self, cast

import torch
from datasets import Dataset
from transformers import ProcessorMixin
from trl import GRPOTrainer

from ors_gym.client.portal import Portal
from ors_gym.dialects import Dialect
from ors_gym.rollouts.exchange import run_all
from ors_gym.trajectory import TaskRef, TrajectoryGroup
from ors_gym_trl.batch import RolloutBatch
from ors_gym_trl.checks import check_sampling, check_trainer, check_whole_groups
from ors_gym_trl.dataset import dataset_of, read_task
from ors_gym_trl.environment import OpenSource, Source
from ors_gym_trl.metrics import episode_table, rollout_metrics
from ors_gym_trl.policy import TokenPolicy
from ors_gym_trl.sampling.backends import make_sampler
from ors_gym_trl.sampling.in_process import context_tokens, stop_tokens
from ors_gym_trl.sampling.sampler import Sampler
from ors_gym_trl.tokens.conversation import ChatTokenizer
from ors_gym_trl.tokens.images import ImageFeed, VisionProcessor
from ors_gym_trl.tokens.record import TokenRecord

__all__ = ["ORSRollouts"]


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
    ready. The tokens trained on are the tokens sampled. An episode that infrastructure broke is played
    again; if that does not help it is left out: its reward is None and its tokens are masked, so it moves neither
    weights nor baseline.

    Where the model samples is the trainer's choice: in its own process, from a vLLM server, or from a colocated vLLM
    (:mod:`ors_gym_trl.sampling.backends`). With several processes each plays its slice of the batch, and no call is
    common to them while episodes go on.

    Several environments train in one run, each with its own tools, rewards, limits and parser. Their tasks stand in one
    dataset, which the trainer shuffles; ``max_tasks`` says how often each comes up::

        ORSRollouts(
            Source(url, env_name="wordle", max_tasks=500),
            Source(url, env_name="sudoku", max_tasks=500, reward="last"),
        )

    Args:
        sources: One URL, with the fields of :class:`~ors_gym_trl.environment.Source` as ``options``; or sources.
        options: ``env_name``, ``split``, ``limits``, …: the fields of the only source.
    """

    def __init__(self, *sources: Source | str, **options: Any) -> None:
        if len(sources) == 1 and isinstance(sources[0], str):
            given = [Source(sources[0], **options)]
        else:
            given = [source for source in sources if isinstance(source, Source)]
            if options or not given or len(given) < len(sources):
                raise TypeError("give one URL with its options, or one or more Source(url, env_name=…, …)")
        if len({source.name for source in given}) < len(given):
            names = ", ".join(repr(source.name) for source in given)
            raise ValueError(f"several environments need names of their own, got {names}: give name=…")
        self._sources = given
        self.listeners: list[Callable[[RolloutBatch], None]] = []
        """Called with each :class:`~ors_gym_trl.batch.RolloutBatch`, for reports and logs."""
        self._prepared_for: weakref.ref[GRPOTrainer] | None = None
        self._tokenizers: dict[str, ChatTokenizer] = {}
        self._dialects: dict[str, Dialect] = {}
        self._vision: VisionProcessor | None = None
        self._feed: ImageFeed | None = None
        self._num_batches = 0
        self._metrics: dict[str, float] = {}
        self._table: dict[str, list[str]] = {}

    @staticmethod
    def mix(*rollouts: ORSRollouts) -> ORSRollouts:
        """The sources of several in one."""
        return ORSRollouts(*(source for one in rollouts for source in one._sources))

    @cached_property
    def portal(self) -> Portal:
        """The event loop that the episodes live on; its thread starts when it is first needed."""
        return Portal()

    @cached_property
    def sources(self) -> Mapping[str, OpenSource]:
        """The environments, by name."""
        return {source.name: OpenSource(source, self.portal) for source in self._sources}

    @cached_property
    def train_dataset(self) -> Dataset:
        """One row per training task, as ``GRPOTrainer(train_dataset=…)`` takes it.

        Raises the client's errors when a server cannot be reached or has no such environment or split.
        """
        return dataset_of((name, task) for name, opened in self.sources.items() for task in opened.train_tasks)

    @cached_property
    def eval_dataset(self) -> Dataset | None:
        """One row per task of every ``eval_split``; None where there is none."""
        tasks = [(name, task) for name, opened in self.sources.items() for task in opened.eval_tasks]
        return dataset_of(tasks) if tasks else None

    @property
    def reward_funcs(self) -> list[Any]:
        """The episodes' returns, as ``GRPOTrainer(reward_funcs=…)`` takes them. Append your own if you like.

        Those are given ``ors_trajectory``, a list of :class:`~ors_gym.trajectory.Trajectory`, beside what TRL gives
        every reward function. With ``score_group=True`` the environment's comparative scores are a second one; weigh
        them with the trainer's ``reward_weights``.
        """
        scores = [self.ors_score] if any(source.score_group for source in self._sources) else []
        return [self.ors_return, *scores]

    def rollout_func(self, prompts: list[Any], trainer: GRPOTrainer) -> dict[str, list[Any]]:
        """Play one episode per prompt, as ``GRPOTrainer(rollout_func=…)`` calls it.

        Prompts come repeated ``num_generations`` times; those of one such group are played as a group.
        """
        started = time.monotonic()
        if self._prepared_for is None or self._prepared_for() is not trainer:
            self._prepare(trainer)
        training = cast("torch.nn.Module", trainer.model).training
        plan = self._plan(prompts, trainer, training)
        sampler = make_sampler(trainer, self._vision)
        policies = self._policies(trainer, sampler)
        with sampler.open():
            played = self._play(plan, policies, sampler, training)
        groups = [attempts[-1] for attempts in played]
        self._raise_if_all_failed(groups)
        returns = [
            planned.source.source.worth(group, member)
            for planned, group in zip(plan, groups, strict=True)
            for member in group.members
        ]
        scores = [score for group in groups for score in (group.scores or (None,) * len(group.members))]
        records = {episode: record for policy in policies.values() for episode, record in policy.records.items()}
        members = [member for group in groups for member in group.members]
        rows = [
            self._row(records.get(member.episode_id), scored=value is not None or score is not None)
            for member, value, score in zip(members, returns, scores, strict=True)
        ]
        if self._feed is not None:
            self._feed.hold(rows, training=training)
        self._num_batches += 1
        if self._num_batches & (self._num_batches - 1) == 0:
            # The first batch, and ever more rarely later: weights can stop reaching a server at any time.
            check_sampling(trainer, rows)
        batch = RolloutBatch(
            step=trainer.state.global_step,
            training=training,
            groups=tuple(groups),
            returns=tuple(returns),
            seconds=time.monotonic() - started,
            sampling_seconds=sampler.seconds,
            sampled_tokens=sum(sum(row.mask) for row in rows),
            replaced_groups=tuple(group for attempts in played for group in attempts[:-1]),
        )
        self._metrics = rollout_metrics(batch)
        self._table = episode_table(batch)
        for listener in self.listeners:
            listener(batch)
        return {
            "prompt_ids": [row.prompt_ids for row in rows],
            "completion_ids": [row.completion_ids for row in rows],
            "logprobs": [row.logprobs for row in rows],
            "env_mask": [row.mask for row in rows],
            "ors_return": returns,
            "ors_score": scores,
            "ors_trajectory": members,
        }

    def ors_return(self, ors_return: list[float | None], **columns: Any) -> list[float | None]:
        """The reward function: the returns that :meth:`rollout_func` handed on, None where there is none to score.

        It also hands the rollout's numbers to the trainer's logs, and to its table of completions what each episode
        did (``GRPOConfig(log_completions=True)``).
        """
        log_metric, log_extra = columns.get("log_metric"), columns.get("log_extra")
        if log_metric is not None:
            for name, value in self._metrics.items():
                log_metric(name, value)
        if log_extra is not None:
            for name, values in self._table.items():
                log_extra(name, values)
        return ors_return

    def ors_score(self, ors_score: list[float | None], **columns: Any) -> list[float | None]:
        """The second reward function: what the environments' ``score_group`` gave, None where nothing."""
        return ors_score

    def close(self) -> None:
        """Close the clients and the event-loop thread. A host that was passed in stays open."""
        if "portal" in self.__dict__ and self.portal.usable:
            self.portal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self, trainer: GRPOTrainer) -> None:
        """Check the trainer, and learn how its model reads conversations."""
        check_trainer(trainer)
        if self._feed is not None:
            self._feed.close()
        self._vision = self._feed = None
        self._num_batches = 0
        tokenizer: Any = trainer.processing_class
        if isinstance(tokenizer, ProcessorMixin):
            self._vision = VisionProcessor(tokenizer)
            self._feed = ImageFeed(self._vision, trainer)
            tokenizer = self._vision.processor.tokenizer
        self._tokenizers = {
            source.name: ChatTokenizer(tokenizer, source.template_options, stop_tokens(trainer), self._vision)
            for source in self._sources
        }
        self._dialects = {name: opened.dialect(self._tokenizers[name]) for name, opened in self.sources.items()}
        self._prepared_for = weakref.ref(trainer)

    def _plan(self, prompts: Sequence[Any], trainer: GRPOTrainer, training: bool) -> list[_PlannedGroup]:
        """The groups, or parts of groups, among the prompts. Their borders are counted over all processes."""
        num_generations = (
            cast("Any", trainer).num_generations if training else cast("Any", trainer).num_generations_eval
        )
        first = trainer.accelerator.process_index * len(prompts)
        tasks = [read_task(prompt) for prompt in prompts]
        plan: list[_PlannedGroup] = []
        for (_, name, task), places in itertools.groupby(
            range(len(tasks)), key=lambda i: ((first + i) // num_generations, *tasks[i])
        ):
            opened = self.sources.get(name)
            if opened is None:
                raise ValueError(
                    f"a prompt of {name!r} reached rollouts of {', '.join(map(repr, self.sources))}: "
                    "pass the same ORSRollouts' train_dataset (or eval_dataset) to the trainer"
                )
            plan.append(_PlannedGroup(opened, task, len(list(places))))
        for source in self._sources:
            check_whole_groups(source, trainer, len(prompts), num_generations)
        return plan

    def _policies(self, trainer: GRPOTrainer, sampler: Sampler) -> dict[str, TokenPolicy]:
        return {
            source.name: TokenPolicy(
                self._tokenizers[source.name],
                self._dialects[source.name],
                sampler.submit,
                max_completion_tokens=cast("Any", trainer.args).max_completion_length,
                max_context_tokens=context_tokens(trainer),
                max_turn_tokens=source.max_turn_tokens,
            )
            for source in self._sources
        }

    def _play(
        self, plan: Sequence[_PlannedGroup], policies: Mapping[str, TokenPolicy], sampler: Sampler, training: bool
    ) -> list[list[TrajectoryGroup]]:
        """Play on the event loop while this thread, the trainer's, samples."""
        playing = self.portal.run(_start(plan, policies, sampler, training))
        try:
            sampler.serve()
            return playing.result()
        finally:
            # Ctrl-C, or a fault of the model: the episodes end now, and close their sessions.
            self.portal.run(_cancel(playing))

    def _row(self, record: TokenRecord | None, *, scored: bool) -> TokenRecord:
        """The record as the trainer takes it: never empty, ending with a sampled token; masked where not scored."""
        end_of_sequence = next(iter(self._tokenizers.values())).eos_token_id
        record = record or TokenRecord([end_of_sequence])
        if not any(record.mask) or not scored:
            record = TokenRecord.beginning(record.prompt)
            record.add_environment([end_of_sequence])
            return record
        record.drop_trailing_environment()
        return record

    def _raise_if_all_failed(self, groups: Sequence[TrajectoryGroup]) -> None:
        failures = [failure for group in groups for failure in group.failures]
        if failures and all(member.failed for group in groups for member in group.members):
            raise RuntimeError(
                f"every episode of this batch failed, {len(failures)} attempts in all; nothing was trained on. "
                f"The last one: {failures[-1].kind}: {failures[-1].message}"
            )


@dataclass(frozen=True, slots=True)
class _PlannedGroup:
    source: OpenSource
    task: TaskRef
    size: int


async def _start(
    plan: Sequence[_PlannedGroup], policies: Mapping[str, TokenPolicy], sampler: Sampler, training: bool
) -> asyncio.Task[list[list[TrajectoryGroup]]]:
    playing = asyncio.create_task(
        run_all(
            one.source.play(one.task, one.size, policies[one.source.source.name], training=training) for one in plan
        )
    )
    playing.add_done_callback(lambda _: sampler.stop())
    return playing


async def _cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task, unless it is over, and wait until it has cleaned up."""
    if task.cancel():
        await asyncio.wait([task])
