"""``ors-gym eval``: evaluate one or more models on a split, with errors, comparisons and a gate for CI."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from ors_gym.cli.arguments import (
    add_server_options,
    add_task_options,
    at_least,
    choose_env,
    choose_split,
    hidden_values,
    make_client,
    secrets,
    session_options,
)
from ors_gym.cli.exits import InputError, NoVerdictError
from ors_gym.cli.output import say, visible
from ors_gym.cli.policies import POLICIES, add_endpoint_options, make_policy, model_keys
from ors_gym.cli.scoring import add_scoring_options, print_evaluation, read_prices, rules_of, write_results
from ors_gym.client.client import ORSClient
from ors_gym.errors import ORSError
from ors_gym.evaluation import Budget, Evaluation, EvaluationRun, prepare
from ors_gym.evaluation.files import RECORDS, outcomes_by_model, run_file
from ors_gym.evaluation.outcomes import Outcome
from ors_gym.evaluation.task_plan import choose_test_split
from ors_gym.evaluation.words import Scale
from ors_gym.policies.endpoint import ChatPolicy, EndpointRefusedError
from ors_gym.policies.policy import Policy
from ors_gym.reporting.progress import RunProgress
from ors_gym.rollouts.episode import RolloutLimits

__all__ = ["HELP", "add_options", "eval_command"]

HELP = """\
Play every task of a split with one or more models, and report each model's result with its uncertainty.

  ors-gym eval http://localhost:8080 --model openai:gpt-5-mini --epochs 4
  ors-gym eval http://localhost:8080 --model openai:a@http://gpu1:8000/v1 --model openai:b@http://gpu2:8000/v1
  ors-gym eval http://localhost:8080 --model local:Qwen/Qwen3-0.6B --model local:./trained --sampling temperature=0.7
  ors-gym eval http://localhost:8080 --model my_agents:Greedy --compare runs/last-week --fail-below 0.6
  ors-gym eval http://localhost:8080 --model random --sample 200 --stratify-by subject --out runs/baseline
  ors-gym eval http://localhost:8080 --model openai:gpt-5-mini --out runs/mini --resume --retry-failed

The default split is the one of type test, else of type validation. The run's folder receives run.jsonl with every
episode, summary.json, and report.html. Errors are computed over tasks, so more tasks are more informative than more
epochs. A failed episode has no return; it is excluded, counted, and bounded.

exit status: 0 success; 1 the lower end of an interval is below --fail-below; 2 bad input; 3 no verdict: the
server or endpoint failed, too many episodes failed, runs are not comparable, or a budget was spent; 130 Ctrl-C
"""

SHOWN_EVERY_SECONDS = 0.5
"""Delay between two running estimates, each of which covers all outcomes."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_server_options(parser)
    add_task_options(parser, split="the split (default: one of type test, else validation)")
    option = parser.add_argument
    option("--model", action="append", required=True, help=f"{POLICIES}; openai:MODEL@URL; repeatable")
    option("--epochs", metavar="K", type=at_least(1), default=1, help="times each task is played (default: 1)")
    which = parser.add_argument_group("tasks").add_mutually_exclusive_group()
    which.add_argument("--tasks", metavar="0,3,8-11", help="task indices")
    which.add_argument("--limit", metavar="N", type=at_least(1), help="the first N")
    which.add_argument("--sample", metavar="N", type=at_least(1), help="N drawn at random with --seed")
    option("--stratify-by", metavar="FIELD", help="draw the sample in proportion to the values of a field of the task")
    option("--seed", metavar="N", type=int, default=0, help="seed of the sample, the order and the random policy")
    add_endpoint_options(parser.add_argument_group("endpoint"))
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-turns", metavar="N", type=at_least(1), default=32, help="maximum turns of an episode (default: 32)"
    )
    limits.add_argument(
        "--max-tokens", metavar="N", type=at_least(1), help="maximum tokens that a model writes in an episode"
    )
    limits.add_argument("--max-episode-seconds", metavar="S", type=float, help="maximum seconds of an episode")
    limits.add_argument(
        "--max-run-tokens", metavar="N", type=at_least(1), help="maximum tokens that the models write in the run"
    )
    limits.add_argument("--max-run-cost", metavar="USD", type=float, help="maximum cost of the run, by --prices")
    limits.add_argument("--max-run-seconds", metavar="S", type=float, help="maximum seconds of the run")
    limits.add_argument(
        "--concurrency", metavar="N", type=at_least(1), default=64, help="concurrent sessions (default: 64)"
    )
    limits.add_argument(
        "--retries", metavar="N", type=at_least(0), default=2, help="retries of a failed episode (default: 2)"
    )
    add_scoring_options(parser)
    results = parser.add_argument_group("results")
    results.add_argument("--out", metavar="DIR", help="the run's folder (default: a new one under runs/)")
    results.add_argument("--resume", action="store_true", help="continue the run in DIR")
    results.add_argument("--retry-failed", action="store_true", help="with --resume: play failed episodes again")
    results.add_argument("--json", action="store_true", help="print summary.json, and nothing else")


def eval_command(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command."""
    try:
        return asyncio.run(_Eval(arguments, console).run())
    except (ORSError, EndpointRefusedError) as error:
        raise NoVerdictError(str(error)) from None


class _Eval:
    def __init__(self, arguments: argparse.Namespace, console: Console) -> None:
        self.arguments = arguments
        self.console = console
        self.rules = rules_of(arguments)
        self.prices = read_prices(arguments.prices)
        self.secrets = secrets(arguments)
        if len(set(arguments.model)) < len(arguments.model):
            raise InputError("a --model is given twice: use --epochs to play it several times")
        self.models: dict[str, Policy] = {}
        for spec in arguments.model:
            policy = make_policy(spec, arguments, "--model")
            self.models[_shown_name(spec, policy)] = policy
        self.hidden = tuple(filter(None, (*hidden_values(arguments), *model_keys(arguments))))
        if arguments.retry_failed and not arguments.resume:
            raise InputError("--retry-failed needs --resume and --out")
        if arguments.resume and not arguments.out:
            raise InputError("--resume needs the run's folder: give --out")
        if arguments.out and (Path(arguments.out) / RECORDS).exists() and not arguments.resume:
            raise InputError(f"{arguments.out} already has a run: continue it with --resume")
        if arguments.compare:
            try:
                outcomes_by_model(run_file(arguments.compare), self.rules)
            except (OSError, ValueError) as error:
                raise InputError(f"--compare: {error}") from None

    async def run(self) -> int:
        arguments = self.arguments
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(make_client(arguments))
            for policy in self.models.values():
                if isinstance(policy, AbstractAsyncContextManager):  # an endpoint's connections, a local model's thread
                    await stack.enter_async_context(policy)
            env_name = await choose_env(client, arguments.env)
            split = await _split(client, env_name, arguments.split)
            folder = Path(arguments.out or f"runs/eval-{_plain(env_name)}-{datetime.now(UTC):%Y%m%d-%H%M%S}")
            try:
                run = await self.prepare(client, env_name, split, folder)
            except ValueError as error:
                raise InputError(str(error)) from None
            try:
                await self.play(run, f"{', '.join(self.models)} on {env_name}:{split}")
            finally:  # also on Ctrl-C, with the episodes so far
                evaluation = run.evaluation(arguments.compare)
                self.report(evaluation, folder)
        return evaluation.status(arguments.fail_below)

    async def prepare(self, client: ORSClient, env_name: str, split: str, folder: Path) -> EvaluationRun:
        arguments = self.arguments
        return await prepare(
            client,
            self.models,
            env_name=env_name,
            split=split,
            tasks=_indices(arguments.tasks),
            limit=arguments.limit,
            sample=arguments.sample,
            stratify_by=arguments.stratify_by,
            seed=arguments.seed,
            epochs=arguments.epochs,
            rules=self.rules,
            limits=RolloutLimits(
                arguments.max_turns, arguments.max_episode_seconds, arguments.concurrency, arguments.max_tokens
            ),
            retries=arguments.retries,
            budget=Budget(arguments.max_run_tokens, arguments.max_run_cost, arguments.max_run_seconds),
            prices=self.prices,
            **session_options(arguments),
            out=folder / RECORDS,
            resume=arguments.resume,
            retry_failed=arguments.retry_failed,
            about={name: self.about(policy) for name, policy in self.models.items()},
            hidden=self.hidden,
        )

    def about(self, policy: Policy) -> Mapping[str, Any]:
        if not isinstance(policy, ChatPolicy):
            return {"sampling": list(self.arguments.sampling)} if self.arguments.sampling else {}
        return {"endpoint": policy.url, "sampling": list(self.arguments.sampling)}

    async def play(self, run: EvaluationRun, title: str) -> None:
        shown = Console(stderr=True, highlight=False) if self.arguments.json else self.console
        with RunProgress(visible(title), console=shown) as progress:
            live = _Live(run, progress)
            run.on_episode = live.episode
            progress.steps(run.planned, name="Playing", unit="episode")
            await run.play()
            progress.finish()

    def report(self, evaluation: Evaluation, folder: Path) -> None:
        write_results(evaluation, folder, hidden=self.hidden)
        if self.arguments.json:
            print(json.dumps(evaluation.to_json(), allow_nan=False))
            return
        print_evaluation(self.console, evaluation, self.arguments.fail_below)
        say(self.console, f"The page is at {(folder / 'report.html').resolve().as_uri()}")
        say(self.console, f"The episodes are in {folder / RECORDS}")


class _Live:
    """The running estimates, updated periodically."""

    def __init__(self, run: EvaluationRun, progress: RunProgress) -> None:
        self.run = run
        self.progress = progress
        self.next_estimate = 0.0
        self.estimates: dict[str, str] = {}

    def episode(self, run: EvaluationRun, model: str, outcome: Outcome) -> None:
        last = run.done == run.planned
        if time.monotonic() >= self.next_estimate or last:
            self.next_estimate = time.monotonic() + SHOWN_EVERY_SECONDS
            self.estimates = {name: self.estimate(name, last) for name in run.models}
        failures = {outcome.failure: 1} if outcome.failure is not None else {}
        self.progress.update(run.done, episodes=1, failures=failures, estimates=self.estimates)

    def estimate(self, model: str, last: bool) -> str:
        result = self.run.outcomes[model].result()
        scale, estimate = Scale(result.rules), result.main
        if estimate.value is None:
            return "no scored episode yet"
        within = "" if estimate.interval is None else f" ({scale.interval(estimate.interval)})"
        so_far = "" if last else ", so far, short episodes first"
        return f"{scale.value(estimate.value)}{within}{so_far}"


async def _split(client: ORSClient, env_name: str, wanted: str | None) -> str:
    if wanted is not None:
        return await choose_split(client, env_name, wanted)
    try:
        return choose_test_split(await client.list_splits(env_name))
    except ValueError as error:
        raise InputError(f"{error} with --split") from None


def _indices(text: str | None) -> list[int] | None:
    """Task indices in the format ``0,3,8-11``."""
    if text is None:
        return None
    indices: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            indices += range(int(first), int(last) + 1) if dash else [int(first)]
        except ValueError:
            raise InputError(f"--tasks {text}: write indices and ranges, such as 0,3,8-11") from None
    return indices


def _shown_name(spec: str, policy: Policy) -> str:
    """A model's name in results, without the URL of its endpoint, which may contain a key."""
    return f"{policy.api}:{policy.model}" if isinstance(policy, ChatPolicy) else spec


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
