"""Playing an evaluation: every task of a split, epoch by epoch, with one or several models at once.

Tasks are shuffled by the seed and each epoch goes over all of them, so that a run that is stopped early is a sample of
tasks. All models are played side by side and share the sessions.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Unpack

from ors_gym.client.address import with_key
from ors_gym.client.client import ORSClient
from ors_gym.errors import ORSError
from ors_gym.evaluation.evaluation import FINISHED, Evaluation, make_evaluation
from ors_gym.evaluation.files import FilePath, outcomes_by_model
from ors_gym.evaluation.outcomes import Outcome, Outcomes, Prices, outcome_of, tokens_of
from ors_gym.evaluation.rules import Rules
from ors_gym.evaluation.task_plan import PlannedTask, TaskPlan, choose_test_split, plan_tasks
from ors_gym.policies.policy import Policy
from ors_gym.reporting.records import TrajectoryWriter
from ors_gym.rollouts.episode import EpisodeHost, EpisodeRunner, RolloutLimits
from ors_gym.rollouts.exchange import run_all
from ors_gym.rollouts.groups import FailurePolicy, run_groups
from ors_gym.rollouts.options import SessionOptions
from ors_gym.rollouts.seeds import derive_seed
from ors_gym.rollouts.tasks import TaskSampler
from ors_gym.trajectory import TaskRef, Trajectory, TrajectoryGroup
from ors_gym.types import GroupCandidate, GroupScore

__all__ = ["Budget", "EvaluationRun", "evaluate", "prepare"]

IDENTITY = ("env", "split", "seed", "max_turns", "max_tokens", "max_episode_seconds", "toolset", "tool_errors")
"""What must be the same for a run to go on in the same file."""


@dataclass(frozen=True, slots=True)
class Budget:
    """When the whole run is stopped; None is no limit. What was played is kept, without a verdict."""

    output_tokens: int | None = None
    cost: float | None = None
    """US dollars, by the prices that are given."""
    seconds: float | None = None


@dataclass
class EvaluationRun:
    """An evaluation that is about to be played. ``await run.play()``, then :meth:`evaluation`."""

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
        """Episodes of all models together."""
        return len(self.plan.tasks) * self.epochs * len(self.models)

    @property
    def done(self) -> int:
        """Episodes that have an outcome."""
        return sum(map(len, self.outcomes.values()))

    async def play(self) -> None:
        """Play what is left to play. Every episode is in the file as soon as it ends."""
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
        """The tasks that a model has still to play, epoch by epoch, shuffled anew in each."""
        done = self.outcomes[model].epochs_done(failed_count=not self.retry_failed)
        by_ref = {task.ref: task for task in self.plan.tasks}
        sampler = TaskSampler([task.ref for task in self.plan.tasks], seed=self.seed, epochs=self.epochs)
        for place, ref in enumerate(sampler):
            task = by_ref[ref]
            if place // len(self.plan.tasks) not in done.get(task.identity.label, ()):
                yield task

    def check_budget(self) -> None:
        """Stop the run where a budget is spent."""
        tokens = sum(outcomes.tokens["output_tokens"] for outcomes in self.outcomes.values())
        cost = sum(outcomes.cost(self.prices) for outcomes in self.outcomes.values())
        if self.budget.output_tokens is not None and tokens >= self.budget.output_tokens:
            raise _BudgetSpentError(f"the budget of {self.budget.output_tokens:,} output tokens is spent")
        if self.budget.cost is not None and cost >= self.budget.cost:
            raise _BudgetSpentError(f"the budget of ${self.budget.cost:g} is spent")

    def evaluation(self, base: FilePath | None = None) -> Evaluation:
        """The results of what was played so far."""
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
    """The run has cost what it may cost."""


class _Player:
    """One model of a run: plays what it has left, and writes it down."""

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
        # run_groups counts a task's groups from 0: what is left of a run must not repeat the draws of what was played.
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
            max_failed_groups=None,  # an evaluation has a budget of failures
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
    """A host that also writes down, and counts the tokens of, attempts that failed and are played again."""

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
                again = TrajectoryGroup(task, (episode,), dropped=True, attempts=1)
                self._writer.write_group(again, {"superseded": True})
        return episode

    async def score_group(self, task: TaskRef, candidates: Sequence[GroupCandidate]) -> Sequence[GroupScore]:
        return await self._host.score_group(task, candidates)


async def prepare(
    client: ORSClient,
    models: Mapping[str, Policy],
    *,
    env_name: str | None = None,
    split: str | None = None,
    tasks: Sequence[int] | None = None,
    limit: int | None = None,
    sample: int | None = None,
    stratify_by: str | None = None,
    seed: int = 0,
    epochs: int = 1,
    rules: Rules | None = None,
    limits: RolloutLimits | None = None,
    retries: int = 2,
    budget: Budget | None = None,
    prices: Prices | None = None,
    out: FilePath | None = None,
    resume: bool = False,
    retry_failed: bool = False,
    about: Mapping[str, Mapping[str, Any]] | None = None,
    hidden: Sequence[str] = (),
    host: EpisodeHost | None = None,
    on_episode: Callable[[EvaluationRun, str, Outcome], None] | None = None,
    **session: Unpack[SessionOptions],
) -> EvaluationRun:
    """An evaluation that is ready to be played. For the arguments see :func:`evaluate`."""
    rules, limits = rules or Rules(), limits or RolloutLimits()
    if not models:
        raise ValueError("an evaluation needs a model")
    if epochs < 1:
        raise ValueError("epochs must be at least 1")
    names = await client.list_environments()
    env = env_name or (names[0] if names else "")
    chosen = split or choose_test_split(await client.list_splits(env))
    plan = await plan_tasks(
        client,
        env,
        chosen,
        indices=tasks,
        limit=limit,
        sample=sample,
        stratify_by=stratify_by,
        cluster_by=rules.cluster_by,
        seed=seed,
    )
    shared = {
        "env": env,
        "split": chosen,
        "seed": seed,
        "max_turns": limits.max_turns,
        "max_tokens": limits.max_tokens,
        "max_episode_seconds": limits.max_episode_seconds,
        "toolset": session.get("toolset"),
        "tool_errors": session.get("tool_errors", "observe"),
        "episodes": len(plan.tasks) * epochs,
        "epochs": epochs,
        "server_version": await _server_version(client),
        "tools_sha256": await _tools_sha256(client, env),
        "ors_gym": metadata.version("ors-gym"),
        "sample": {
            "num_tasks": plan.num_tasks,
            "stratify_by": plan.stratify_by,
            "stratum_sizes": dict(plan.stratum_sizes),
        },
    }
    path = None if out is None else Path(out)
    known = outcomes_by_model(path, rules) if resume and path is not None and path.exists() else {}
    outcomes: dict[str, Outcomes] = {}
    for name in models:
        run = {"model": name, **((about or {}).get(name) or {}), **shared}
        outcomes[name] = Outcomes(name, rules, run)
        if name in known:
            _check_same(known[name], run, plan)
            wanted = {task.identity.label for task in plan.tasks}
            for outcome in known[name].all:
                if outcome.task.label in wanted and outcome.epoch < epochs:
                    outcomes[name].add(outcome)
            outcomes[name].tokens = known[name].tokens.copy()
    if host is None:
        host = EpisodeRunner(client, limits=limits, **session)
    return EvaluationRun(
        plan,
        models,
        host,
        epochs,
        seed,
        rules,
        outcomes,
        FailurePolicy(retries=retries, min_valid_members=1),
        limits.max_concurrent_sessions,
        budget or Budget(),
        prices or {},
        path,
        retry_failed,
        tuple(hidden),
        on_episode,
        settings=shared,
    )


async def evaluate(server: str | ORSClient, models: Mapping[str, Policy], **options: Any) -> Evaluation:
    """Play every task of a split with every model, and return what came of it.

    Args:
        server: an ORS server, by its URL or its name in the hosted catalogue; or its client.
        models: the policies to evaluate, by the names that results are shown under.
        options: how, all optional.

            - ``env_name``, ``split``: by default the server's first environment, and its split of type test, else of
              type validation.
            - ``tasks``, ``limit``, ``sample``, ``stratify_by``, ``seed``: see
              :func:`~ors_gym.evaluation.task_plan.plan_tasks`; by default all tasks.
            - ``epochs``: how often each task is played.
            - ``rules``: what an episode is worth and when there is no verdict (:class:`~ors_gym.evaluation.Rules`).
            - ``limits``, ``retries``, ``budget``: limits of an episode, attempts after a failed one, and limits of the
              whole run (:class:`Budget`); ``prices`` gives the cost of tokens.
            - ``secrets``, ``toolset``, ``tools``, ``parallel_tool_calls``, ``tool_errors``: of every session (see
              :class:`~ors_gym.rollouts.options.SessionOptions`).
            - ``out``: the file that every attempt is written to; ``resume`` goes on where that file ends, and
              ``retry_failed`` plays again what failed in it. ``hidden`` are texts to mask in it, and ``about`` is
              what to say of each model in it.
            - ``base``: the file of another run to compare with.
            - ``host``: what plays the episodes, such as ``ors_gym_ray.RolloutPool``; by default this process.
            - ``api_key``, ``client_options``: of the client that is made for an address.
            - ``on_episode``: called with the run, the model's name and the outcome as each episode ends.

    Raises:
        ValueError: there is no such split, task or field, or the file is of another run.
        ORSError: the server could not be asked what there is.
    """
    base = options.pop("base", None)
    key, of_client = options.pop("api_key", None), options.pop("client_options", None)
    if not isinstance(server, str) and (key is not None or of_client):
        raise ValueError("api_key and client_options belong to the client, which is given here")
    async with AsyncExitStack() as stack:
        if isinstance(server, str):
            client = await stack.enter_async_context(ORSClient(server, **with_key(server, key, of_client)))
        else:
            client = server
        run = await prepare(client, models, **options)
        await run.play()
    return run.evaluation(base)


def _check_same(known: Outcomes, run: Mapping[str, Any], plan: TaskPlan) -> None:
    """Refuse to go on in the file of another run, or with tasks that have changed since."""
    for name in IDENTITY:
        if name in known.about and known.about[name] != run[name]:
            raise ValueError(f"the file was played with {name}={known.about[name]!r}, not {run[name]!r}")
    now = {task.identity.label: task.identity for task in plan.tasks}
    changed = [
        label
        for label, before in known.identities().items()
        if label in now and None not in (before.sha256, now[label].sha256) and before.sha256 != now[label].sha256
    ]
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise ValueError(f"tasks have changed since the file was begun: {', '.join(changed[:5])}{more}")


async def _server_version(client: ORSClient) -> str | None:
    try:
        return await client.version()
    except ORSError:
        return None


async def _tools_sha256(client: ORSClient, env_name: str) -> str | None:
    try:
        tools = await client.known_tools(env_name)
    except ORSError:
        return None
    terminal = tools.terminal_tool and (tools.terminal_tool.name, tools.terminal_tool.arg)
    text = json.dumps([[tool.name, tool.description, tool.input_schema] for tool in tools] + [terminal], default=str)
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]
