"""Running an evaluation: every task of a split, epoch by epoch, with one or more models at once.

Tasks are shuffled by the seed and each epoch covers all of them, so a run that is stopped early is a random sample of
tasks. All models run concurrently and share the sessions.
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
"""Settings that must match to resume a run in the same file."""


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
    """Prepare an evaluation for playing. For the arguments see :func:`evaluate`."""
    rules, limits = rules or Rules(), limits or RolloutLimits()
    if not models:
        raise ValueError("an evaluation needs at least one model")
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
        description = {"model": name, **((about or {}).get(name) or {}), **shared}
        outcomes[name] = Outcomes(name, rules, description)
        if name in known:
            _check_same(known[name], description, plan)
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
    """Play every task of a split with every model, and return the results.

    Args:
        server: an ORS server, by its URL or its name in the hosted catalogue, or an open client.
        models: the policies to evaluate, by the names under which results are shown.
        options: all optional.

            - ``env_name``, ``split``: by default the server's first environment, and its split of type test, else of
              type validation.
            - ``tasks``, ``limit``, ``sample``, ``stratify_by``, ``seed``: see
              :func:`~ors_gym.evaluation.task_plan.plan_tasks`; by default all tasks.
            - ``epochs``: number of times each task is played.
            - ``rules``: the return of an episode and the conditions for a verdict (:class:`~ors_gym.evaluation.Rules`).
            - ``limits``, ``retries``, ``budget``: limits of an episode, attempts after a failed one, and limits of the
              whole run (:class:`Budget`); ``prices`` gives the cost of tokens.
            - ``secrets``, ``toolset``, ``tools``, ``parallel_tool_calls``, ``tool_errors``: for every session (see
              :class:`~ors_gym.rollouts.options.SessionOptions`).
            - ``out``: the file to which every attempt is written; ``resume`` continues an existing file, and
              ``retry_failed`` plays its failed episodes again. ``hidden`` are texts to mask in it, and ``about`` is a
              description of each model to store in it.
            - ``base``: the file of another run to compare with.
            - ``host``: the host that runs the episodes, such as ``ors_gym_ray.RolloutPool``; by default this process.
            - ``api_key``, ``client_options``: for the client that is created for a URL or name.
            - ``on_episode``: called at the end of each episode with the run, the model's name and the outcome.

    Raises:
        ValueError: the split, a task or a field does not exist, or the file belongs to another run.
        ORSError: the server's environments, splits or tasks cannot be read.
    """
    base = options.pop("base", None)
    key, of_client = options.pop("api_key", None), options.pop("client_options", None)
    if not isinstance(server, str) and (key is not None or of_client):
        raise ValueError("api_key and client_options need a URL or a name: a client has its own")
    async with AsyncExitStack() as stack:
        if isinstance(server, str):
            client = await stack.enter_async_context(ORSClient(server, **with_key(server, key, of_client)))
        else:
            client = server
        run = await prepare(client, models, **options)
        await run.play()
    return run.evaluation(base)


def _check_same(known: Outcomes, run: Mapping[str, Any], plan: TaskPlan) -> None:
    """Refuse to continue the file of another run, or one whose tasks have changed."""
    for name in IDENTITY:
        if name in known.about and known.about[name] != run[name]:
            raise ValueError(
                f"the file was recorded with {name}={known.about[name]!r}, not {run[name]!r}: choose another file"
            )
    now = {task.identity.label: task.identity for task in plan.tasks}
    changed = [
        label
        for label, before in known.identities().items()
        if label in now and None not in (before.sha256, now[label].sha256) and before.sha256 != now[label].sha256
    ]
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise ValueError(f"tasks have changed since the file was started: {', '.join(changed[:5])}{more}")


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
