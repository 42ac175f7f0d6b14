"""Running an evaluation: what is played, what an earlier run of the file left to play, and the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from importlib import metadata
from pathlib import Path
from typing import Any, Unpack

from ors_gym.client.address import with_key
from ors_gym.client.client import ORSClient
from ors_gym.errors import ORSError
from ors_gym.evaluation.evaluation import Evaluation
from ors_gym.evaluation.files import FilePath, outcomes_by_model
from ors_gym.evaluation.outcomes import Outcome, Outcomes, Prices
from ors_gym.evaluation.play import Budget, EvaluationRun
from ors_gym.evaluation.rules import Rules
from ors_gym.evaluation.task_plan import TaskPlan, choose_test_split, plan_tasks
from ors_gym.policies.policy import Policy
from ors_gym.rollouts.episode import EpisodeHost, EpisodeRunner, RolloutLimits
from ors_gym.rollouts.groups import FailurePolicy
from ors_gym.rollouts.options import SessionOptions

__all__ = ["evaluate", "prepare"]

IDENTITY = ("env", "split", "seed", "max_turns", "max_tokens", "max_episode_seconds", "toolset", "tool_errors")
"""Settings that must match to resume a run in the same file."""


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
