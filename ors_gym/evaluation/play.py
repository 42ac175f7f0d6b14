"""Playing a prepared evaluation: every task of a split, epoch by epoch, with one or more models at once.

Tasks are shuffled by the seed and each epoch covers all of them, so a run that is stopped early is a random sample of
tasks. All models run concurrently and share the sessions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ors_gym.evaluation.evaluation import FINISHED, Evaluation, make_evaluation
from ors_gym.evaluation.files import FilePath
from ors_gym.evaluation.outcomes import Outcome, Outcomes, Prices, outcome_of, tokens_of
from ors_gym.evaluation.rules import Rules
from ors_gym.evaluation.task_plan import PlannedTask, TaskPlan
from ors_gym.policies.policy import Policy
from ors_gym.reporting.records import TrajectoryWriter
from ors_gym.rollouts.episode import EpisodeHost
from ors_gym.rollouts.exchange import run_all
from ors_gym.rollouts.groups import FailurePolicy, run_groups
from ors_gym.rollouts.seeds import derive_seed
from ors_gym.rollouts.tasks import TaskSampler
from ors_gym.trajectory import TaskRef, Trajectory, TrajectoryGroup
from ors_gym.types import GroupCandidate, GroupScore

__all__ = ["Budget", "EvaluationRun"]


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits at which the whole run is stopped; None is no limit. Finished episodes are kept, without a verdict."""

    output_tokens: int | None = None
    cost: float | None = None
    """US dollars, at the given prices."""
    seconds: float | None = None


@dataclass
class EvaluationRun:
    """A prepared evaluation. ``await run.play()`` runs it; :meth:`evaluation` returns its results."""

    plan: TaskPlan
    models: Mapping[str, Policy]
    host: EpisodeHost
    epochs: int
    seed: int
    rules: Rules
    outcomes: dict[str, Outcomes]
    failures: FailurePolicy
    max_concurrent: int
    budget: Budget = field(default_factory=Budget)
    prices: Prices = field(default_factory=dict[str, Mapping[str, float]])
    out: Path | None = None
    retry_failed: bool = False
    hidden: tuple[str, ...] = ()
    on_episode: Callable[[EvaluationRun, str, Outcome], None] | None = None
    ended: str = "interrupted"
    seconds: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def planned(self) -> int:
        """Number of planned episodes of all models."""
        return len(self.plan.tasks) * self.epochs * len(self.models)

    @property
    def done(self) -> int:
        """Number of episodes with an outcome."""
        return sum(map(len, self.outcomes.values()))

    async def play(self) -> None:
        """Play the remaining episodes. Each episode is written to the file as soon as it ends."""
        began = time.monotonic()
        limit = asyncio.timeout(self.budget.seconds)
        try:
            with ExitStack() as stack:
                players = [_Player(self, name, stack) for name in self.models]
                async with limit:
                    await run_all(player.play() for player in players)
            self.ended = FINISHED
        except _BudgetSpentError as spent:
            self.ended = str(spent)
        except TimeoutError:
            if not limit.expired():
                raise
            self.ended = f"the limit of {self.budget.seconds:g} seconds was reached"
        finally:
            self.seconds += time.monotonic() - began

    def remaining(self, model: str) -> Iterator[PlannedTask]:
        """The tasks that a model has yet to play, epoch by epoch, shuffled anew in each."""
        done = self.outcomes[model].epochs_done(failed_count=not self.retry_failed)
        by_ref = {task.ref: task for task in self.plan.tasks}
        sampler = TaskSampler([task.ref for task in self.plan.tasks], seed=self.seed, epochs=self.epochs)
        for position, ref in enumerate(sampler):
            task = by_ref[ref]
            if position // len(self.plan.tasks) not in done.get(task.identity.label, ()):
                yield task

    def check_budget(self) -> None:
        """Stop the run if a budget is spent."""
        tokens = sum(outcomes.tokens["output_tokens"] for outcomes in self.outcomes.values())
        cost = sum(outcomes.cost(self.prices) for outcomes in self.outcomes.values())
        if self.budget.output_tokens is not None and tokens >= self.budget.output_tokens:
            raise _BudgetSpentError(f"the budget of {self.budget.output_tokens:,} output tokens is spent")
        if self.budget.cost is not None and cost >= self.budget.cost:
            raise _BudgetSpentError(f"the budget of ${self.budget.cost:g} is spent")

    def evaluation(self, base: FilePath | None = None) -> Evaluation:
        """The results of the episodes played so far."""
        files = {} if self.out is None else {model: (self.out, model) for model in self.models}
        return make_evaluation(
            self.outcomes,
            self.rules,
            base=base,
            prices=self.prices,
            files=files,
            ended=self.ended,
            settings=self.settings,
            seconds=self.seconds,
        )


class _BudgetSpentError(Exception):
    """A budget of the run is spent."""


class _Player:
    """Plays the remaining episodes of one model and records them."""

    def __init__(self, run: EvaluationRun, model: str, stack: ExitStack) -> None:
        self.run = run
        self.model = model
        self.outcomes = run.outcomes[model]
        self.by_ref = {task.ref: task for task in run.plan.tasks}
        done = self.outcomes.epochs_done(failed_count=not run.retry_failed)
        self.free = {
            task.ref: [epoch for epoch in range(run.epochs) if epoch not in done.get(task.identity.label, ())]
            for task in run.plan.tasks
        }
        # run_groups counts a task's groups from 0: a resumed run must not repeat the draws of the episodes it already
        # has.
        played = len(self.outcomes)
        self.seed = derive_seed(run.seed, "resumed", played) if played else run.seed
        self.writer: TrajectoryWriter | None = None
        if run.out is not None:
            about = dict(self.outcomes.about)
            self.writer = stack.enter_context(TrajectoryWriter(run.out, run=about, secrets=run.hidden))

    async def play(self) -> None:
        run = self.run
        groups = run_groups(
            _Attempts(run.host, self.writer, self.outcomes, run.failures.retries),
            (task.ref for task in run.remaining(self.model)),
            1,
            policy=run.models[self.model],
            failures=run.failures,
            seed=self.seed,
            max_concurrent_groups=run.max_concurrent,
            max_failed_groups=None,  # Rules.max_failed limits the failures instead
        )
        async with aclosing(groups) as played:
            async for group in played:
                self.take(group)

    def take(self, group: TrajectoryGroup) -> None:
        run, task = self.run, self.by_ref[group.task].identity
        epoch = self.free[group.task].pop(0)
        failed = len(group.failures)
        outcome = outcome_of(group.members[0], task, epoch, run.rules, failed_attempts=failed)
        if self.writer is not None:
            note = {
                "task": task.label,
                "task_sha256": task.sha256,
                "fields": dict(task.fields),
                "epoch": epoch,
                "return": outcome.value,
                "reward": run.rules.reward,
            }
            self.writer.write_group(group, note, returns=[outcome.value])
        self.outcomes.add(outcome)
        if run.on_episode is not None:
            run.on_episode(run, self.model, outcome)
        run.check_budget()


class _Attempts:
    """A host that also records retried attempts, and counts their tokens."""

    def __init__(self, host: EpisodeHost, writer: TrajectoryWriter | None, outcomes: Outcomes, retries: int) -> None:
        self._host = host
        self._writer = writer
        self._outcomes = outcomes
        self._retries = retries

    async def run_episode(
        self, task: TaskRef, *, policy: Policy | None = None, attempt: int = 0, seed: int | None = None
    ) -> Trajectory:
        episode = await self._host.run_episode(task, policy=policy, attempt=attempt, seed=seed)
        if episode.failed and attempt < self._retries:
            self._outcomes.count_tokens(tokens_of(episode))
            if self._writer is not None:
                retried = TrajectoryGroup(task, (episode,), dropped=True, attempts=1)
                self._writer.write_group(retried, {"superseded": True})
        return episode

    async def score_group(self, task: TaskRef, candidates: Sequence[GroupCandidate]) -> Sequence[GroupScore]:
        return await self._host.score_group(task, candidates)
