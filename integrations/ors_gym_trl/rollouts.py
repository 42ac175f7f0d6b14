"""ORS episodes for ``GRPOTrainer``: a dataset of tasks, a rollout function and reward functions."""

from __future__ import annotations

import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Self

from accelerate.utils import gather_object  # type: ignore[import-untyped]
from datasets import Dataset
from transformers import ProcessorMixin

from ors_gym.client.arguments import check_number, types_in_words
from ors_gym.client.portal import Portal
from ors_gym_trl import compat, hooks
from ors_gym_trl.batch import RolloutBatch
from ors_gym_trl.carrying import CarriedGroups
from ors_gym_trl.checks import BatchJudge, check_sampling
from ors_gym_trl.compat import Trainer
from ors_gym_trl.dataset import dataset_of, is_of_tasks, read_prompt
from ors_gym_trl.environment import OpenSource, Source
from ors_gym_trl.metrics import episode_table, rollout_metrics
from ors_gym_trl.planning import Planner
from ors_gym_trl.play import PlayedBatch, PlayedEpisode, play_batch, play_groups
from ors_gym_trl.rewards import ScoredRows, own_reward
from ors_gym_trl.rows import DatasetRows
from ors_gym_trl.sampling.backends import make_sampler
from ors_gym_trl.tokens.conversation import ChatTokenizer
from ors_gym_trl.tokens.images import ImageFeed, VisionProcessor

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

    All prompts of a batch are played concurrently, each in its own session; the model samples the turns that are ready.
    The tokens trained on are the tokens sampled. An episode that fails by infrastructure is played again; if it fails
    on every attempt it is left out: its reward is None and its tokens are masked, so it changes neither weights nor
    baseline.

    The trainer's arguments choose where the model samples: in process, on a vLLM server, or in a colocated vLLM
    (:mod:`ors_gym_trl.sampling.backends`). With several processes each plays its slice of the batch, without collective
    calls during the episodes.

    Several environments can train in one run, each with its own tools, rewards, limits and parser. Their tasks form one
    dataset, which the trainer shuffles; ``max_tasks`` sets their shares::

        ORSRollouts(
            Source(url, env_name="wordle", max_tasks=500),
            Source(url, env_name="sudoku", max_tasks=500, reward="last"),
        )

    Args:
        sources: One URL, with the fields of :class:`~ors_gym_trl.environment.Source` as ``options``; or sources.
        max_failed_batches: The run ends after this many consecutive batches in which every episode of every process
            failed.
        carried_groups: Groups in play beyond the places of a batch, in each process. A batch takes the first groups to
            complete; the others continue in the next batch with the new weights (:mod:`ors_gym_trl.carrying`).
        max_staleness: The number of batches after which a group is waited for.
        options: ``env_name``, ``split``, ``limits``, …: the fields of the only source.
    """

    @types_in_words
    def __init__(
        self,
        *sources: Source | str,
        max_failed_batches: int = 3,
        carried_groups: int = 0,
        max_staleness: int = 4,
        **options: Any,
    ) -> None:
        check_number("max_failed_batches", max_failed_batches, none=False, whole=True)
        check_number("carried_groups", carried_groups, none=False, whole=True)
        check_number("max_staleness", max_staleness, none=False, whole=True)
        if carried_groups < 0 or max_staleness < 1:
            raise ValueError("carried_groups must be at least 0 and max_staleness at least 1")
        if len(sources) == 1 and isinstance(sources[0], str):
            given = [Source(sources[0], **options)]
        else:
            given = [source for source in sources if isinstance(source, Source)]
            if options or not given or len(given) < len(sources):
                raise ValueError("give one URL with its options, or one or more Source(url, env_name=…, …)")
        if len({source.name for source in given}) < len(given):
            names = ", ".join(repr(source.name) for source in given)
            raise ValueError(f"several environments need names of their own, got {names}: give name=…")
        self._sources = given
        self._max_failed_batches = max_failed_batches
        self._carried_groups = carried_groups
        self._max_staleness = max_staleness
        self._carried: CarriedGroups | None = None
        if carried_groups:
            hooks.watch_trainings()
        self.listeners: list[Callable[[RolloutBatch], None]] = []
        """Called with each :class:`~ors_gym_trl.batch.RolloutBatch`, for reports and logs."""
        self._prepared_for: weakref.ref[Trainer] | None = None
        self._planner: Planner | None = None
        self._vision: VisionProcessor | None = None
        self._feed: ImageFeed | None = None
        self._judge = BatchJudge(max_failed_batches)
        self._scoring = ScoredRows()
        self._dataset_rows: DatasetRows | None = None
        self._num_batches = 0
        self._metrics: dict[str, float] = {}
        self._table: dict[str, list[str]] = {}

    @property
    def trainer(self) -> Trainer | None:
        """The trainer that uses them, after it first requested episodes."""
        return None if self._prepared_for is None else self._prepared_for()

    @cached_property
    def server_versions(self) -> Mapping[str, str | None]:
        """The version of each source's server; None if it does not report one."""
        return {name: opened.server_version() for name, opened in self.sources.items()}

    @staticmethod
    def mix(*rollouts: ORSRollouts, **options: Any) -> ORSRollouts:
        """Combine the sources of several; ``options`` are of the whole: ``carried_groups``, …."""
        return ORSRollouts(*(source for one in rollouts for source in one._sources), **options)

    @cached_property
    def portal(self) -> Portal:
        """The event loop of the episodes; its thread starts on first use."""
        return Portal()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the environments."""
        return tuple(source.name for source in self._sources)

    @cached_property
    def sources(self) -> Mapping[str, OpenSource]:
        """The environments, by name."""
        return {source.name: OpenSource(source, self.portal) for source in self._sources}

    @cached_property
    def train_dataset(self) -> Dataset:
        """One row per training task, as ``GRPOTrainer(train_dataset=…)`` takes it.

        Raises the client's errors when a server cannot be reached or has no such environment or split.
        """
        hooks.watch_task_counts(is_of_tasks)
        return dataset_of((name, task) for name, opened in self.sources.items() for task in opened.train_tasks)

    @cached_property
    def eval_dataset(self) -> Dataset | None:
        """One row per task of every ``eval_split``; None if there is none."""
        tasks = [(name, task) for name, opened in self.sources.items() for task in opened.eval_tasks]
        return dataset_of(tasks) if tasks else None

    @property
    def reward_funcs(self) -> list[Any]:
        """The episodes' returns for ``GRPOTrainer(reward_funcs=…)``. Append your own functions to the list.

        They are called for the episodes that count, with ``prompts`` and ``completions`` as conversations (assistant
        turns, tool results with their role), ``env_mask`` beside ``completion_ids``, the tasks' fields, and
        ``ors_trajectory``, a list of :class:`~ors_gym.trajectory.Trajectory`. With ``score_group=True`` the
        environment's comparative scores are a second function; weigh them with the trainer's ``reward_weights``.
        """
        scores = [self.ors_score] if any(source.score_group for source in self._sources) else []
        return [self.ors_return, *scores]

    def rollout_func(self, prompts: list[Any], trainer: Trainer) -> dict[str, list[Any]]:
        """Play one episode per prompt, as ``GRPOTrainer(rollout_func=…)`` calls it.

        Prompts come repeated ``num_generations`` times; those of one such group are played as a group.
        """
        started = time.monotonic()
        if self.trainer is not trainer:
            self._prepare(trainer)
        training = compat.is_training(trainer)
        sampler = make_sampler(trainer, self._vision)
        tasks = [read_prompt(prompt) for prompt in prompts]
        for opened in self.sources.values():
            opened.begin_batch()
        assert self._planner is not None
        carried = self._carried if training else None
        plan = self._planner.plan(tasks, trainer, sampler.submit, carried, training=training)
        play = play_groups if self._carried is None else partial(self._carried.play, sampler=sampler)
        played = play_batch(self.portal, sampler, partial(play, plan, training=training))
        episodes = self._own_rows(trainer, self._planner, played, len(prompts))
        if any(episode.staleness for episode in episodes):
            hooks.mark_stale(trainer)
        rows = [episode.row for episode in episodes]
        members = [episode.trajectory for episode in episodes]
        returns = [episode.value for episode in episodes]
        self._scoring.scored = [episode.scored for episode in episodes]
        if self._feed is not None:
            self._feed.hold(rows, training=training)
        self._num_batches += 1
        if self._num_batches & (self._num_batches - 1) == 0:
            # The first batch, and later ones less and less often: weights can stop reaching a server at any time.
            fresh = [episode.row for episode in episodes if not episode.staleness]
            check_sampling(trainer, fresh or [rows[0].left_out(rows[0].ids[-1])], sampler.settings)
        failures = [failure for group in played.groups for failure in group.failures]
        self._judge.look(trainer, members, returns, failures, training=training)
        batch = RolloutBatch(
            step=compat.step(trainer),
            training=training,
            groups=played.groups,
            sources=tuple(planned.opened.source.name for planned in played.plan),
            returns=played.returns,
            seconds=time.monotonic() - started,
            sampling_seconds=sampler.seconds,
            sampled_tokens=played.sampled_tokens,
            replaced_groups=played.replaced_groups,
            staleness=tuple(one.staleness for one in played.plan) if carried is not None else (),
            run=compat.run_state(trainer),
        )
        self._metrics = rollout_metrics(batch)
        self._table = episode_table(members)
        for listener in tuple(self.listeners):
            listener(batch)
        return compat.rollout_columns(
            rows,
            ors_return=returns,
            ors_score=[episode.score for episode in episodes],
            ors_scored=list(self._scoring.scored),
            ors_fields=[
                self._dataset_rows.fields(*played_task) if self._dataset_rows and played_task != row_task[:2] else None
                for row_task, episode in zip(tasks, episodes, strict=True)
                for played_task in [(episode.source, episode.trajectory.task)]
            ],
            ors_mask=[row.mask for row in rows],
            ors_trajectory=members,
        )

    @staticmethod
    def _own_rows(trainer: Trainer, planner: Planner, played: PlayedBatch, num_rows: int) -> list[PlayedEpisode]:
        """The episodes of this process's slice of the batch, of which other processes may have played some."""
        episodes = played.episodes(planner.end_of_sequence)
        first = compat.rank(trainer) * num_rows
        own = range(first, first + num_rows)
        if planner.hands_over:
            others = [(place, episode) for place, episode in episodes.items() if place not in own]
            episodes |= gather_object(others)
        return [episodes[place] for place in own]

    def ors_return(self, ors_return: list[float | None] | None = None, **columns: Any) -> list[float | None]:
        """The first reward function: the returns passed on by :meth:`rollout_func`, None for rows without one.

        It also adds the rollout's metrics to the trainer's logs, and columns about each episode to its table of
        completions (``GRPOConfig(log_completions=True)``).
        """
        if ors_return is None:
            raise RuntimeError(
                "the trainer sampled without calling rollout_func: no episode was played, and there are no returns. "
                "Pass rollout_func=rollouts.rollout_func to a GRPOTrainer that honours it (unsloth's has ignored it)"
            )
        compat.log_rollout(columns, self._metrics, self._table)
        return ors_return

    def ors_score(self, ors_score: list[float | None], **columns: Any) -> list[float | None]:
        """The second reward function: the scores of the environments' ``score_group``, None without one."""
        return ors_score

    def close(self) -> None:
        """Close the clients and the event-loop thread. A host that was passed in stays open."""
        self._scoring.close()
        if self._feed is not None:
            self._feed.close()
        if self._carried is not None:
            self._carried.close()
        portal: Portal | None = self.__dict__.get("portal")
        if portal is not None and portal.usable:
            portal.close()

    def __del__(self) -> None:
        portal: Portal | None = self.__dict__.get("portal")
        if portal is None or not portal.usable or sys.is_finalizing():
            return
        # On a new thread: objects are collected on any thread, the portal's included, which cannot wait for itself.
        threading.Thread(target=portal.close, name="ors-gym closing", daemon=True).start()
        words = f"unclosed {self!r}: call close(), or use it as a context manager"
        warnings.warn(words, ResourceWarning, stacklevel=2, source=self)

    def __reduce__(self) -> Any:
        """A copy in another process has the same sources and opens its own clients; it has no listeners."""
        options = {
            "max_failed_batches": self._max_failed_batches,
            "carried_groups": self._carried_groups,
            "max_staleness": self._max_staleness,
        }
        return partial(ORSRollouts, **options), tuple(self._sources)

    def __repr__(self) -> str:
        return f"<ORSRollouts of {', '.join(source.name for source in self._sources)}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self, trainer: Trainer) -> None:
        """Check the trainer and prepare its tokenizer or processor."""
        compat.check_trainer(trainer)
        compat.check_backend(trainer)
        if self._feed is not None:
            self._feed.close()
        self._scoring.close()
        self._vision = self._feed = None
        self._num_batches = 0
        self._judge = BatchJudge(self._max_failed_batches)
        if self._carried is not None:
            self._carried.close()
        self._carried = None
        if self._carried_groups:
            self._carried = CarriedGroups(self.portal, self._carried_groups, self._max_staleness)
        tokenizer: Any = compat.processing_class(trainer)
        if isinstance(tokenizer, ProcessorMixin):
            self._vision = VisionProcessor(tokenizer)
            self._feed = ImageFeed(self._vision, trainer)
            tokenizer = self._vision.processor.tokenizer
        tokenizers = {
            source.name: ChatTokenizer(tokenizer, source.template_options, compat.stop_tokens(trainer), self._vision)
            for source in self._sources
        }
        self._planner = Planner(self.sources, tokenizers)
        self._dataset_rows = None
        if self._carried_groups or any(source.plays_other_tasks for source in self._sources):
            self._dataset_rows = DatasetRows(compat.train_dataset(trainer))
            for name, opened in self.sources.items():
                opened.begin_training(self._dataset_rows.tasks(name))
        compat.replace_reward_functions(trainer, self._beside_returns)
        self._prepared_for = weakref.ref(trainer)

    def _beside_returns(self, function: Any) -> Any:
        """A reward function for the trainer: ours unchanged, the user's limited to scored rows."""
        ours = getattr(function, "__self__", None) is self or hasattr(function, "ors_rows")
        if ours:
            return function
        return own_reward(function, self._scoring)
