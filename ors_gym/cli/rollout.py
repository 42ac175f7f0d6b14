"""``ors-gym rollout``: play episodes with a policy, record and summarize them."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

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
from ors_gym.cli.exits import FAILURE, InputError
from ors_gym.cli.output import say, visible
from ors_gym.cli.policies import POLICIES, add_endpoint_options, make_policy, model_keys
from ors_gym.errors import ORSError
from ors_gym.policies.endpoint import ChatPolicy
from ors_gym.reporting.page import RunRecord, Sample, StepRecord, write_report
from ors_gym.reporting.progress import RunProgress
from ors_gym.reporting.provenance import path_from
from ors_gym.reporting.records import TrajectoryWriter, read_groups, read_records
from ors_gym.rollouts.groups import EpisodeRunner, FailurePolicy, RolloutLimits, run_groups
from ors_gym.rollouts.returns import trajectory_return
from ors_gym.rollouts.summary import Summary
from ors_gym.rollouts.tasks import TaskSampler, load_tasks, remaining_tasks
from ors_gym.trajectory import TaskRef, TrajectoryGroup

__all__ = ["EPILOG", "HELP", "add_options", "rollout_command"]

HELP = "Play episodes with a policy and summarize them."

EPILOG = """\
examples:
  ors-gym rollout http://localhost:8080 --episodes 256 --report random.html
  ors-gym rollout http://localhost:8080 --policy openai:Qwen/Qwen3-8B --base-url http://localhost:8000/v1
  ors-gym rollout http://localhost:8080 --policy openai:gpt-5-mini --sampling max_completion_tokens=4096
  ors-gym rollout http://localhost:8080 --policy anthropic:claude-opus-5-5 --sampling max_tokens=4096
  ors-gym rollout http://localhost:8080 --episodes 5000 --out runs/train.jsonl            a line for each episode
  ors-gym rollout http://localhost:8080 --episodes 5000 --out runs/train.jsonl --resume   continues that file
  ors-gym rollout http://localhost:8080 --json | jq .mean_return
  ors-gym rollout http://localhost:8080 --env wordle --split test --policy my_agents:GreedyPolicy

openai:MODEL calls any endpoint with OpenAI's Chat Completions: vLLM, SGLang, llama.cpp, hosted models. responses:MODEL
calls OpenAI's Responses, which its newer models require for tools; anthropic:MODEL and google:MODEL call the providers'
own APIs. Keys are read from OPENAI_API_KEY, ANTHROPIC_API_KEY and GEMINI_API_KEY. A custom policy is an object
with `async def act(self, turn: Turn) -> Reply` (see ors_gym.policies.policy), or a class or function that creates one
without arguments, given as module:name.

An episode that fails (a lost connection, a lost session) is retried in a fresh session and is never
scored. Ctrl-C closes every session, and writes the file and the report with the episodes so far.
"""

NOT_SETTINGS = (
    *("command", "secret", "api_key", "header", "ca", "timeout", "model_key", "base_url"),
    *("report", "out", "resume", "json"),
)
"""Arguments that must not be recorded (a URL may contain a key) or do not affect how episodes are played."""
IDENTITY = ("env", "split", "policy", "sampling", "seed", "group_size", "max_turns", "max_tokens", "tool_errors")
"""Settings that must match to continue a run in the same file."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_server_options(parser)
    add_task_options(parser)
    option = parser.add_argument
    option("--episodes", metavar="N", type=at_least(1), default=64, help="number of episodes (default: %(default)s)")
    option("--group-size", metavar="N", type=at_least(1), default=1, help="episodes of one task (default: %(default)s)")
    option(
        "--max-turns",
        metavar="N",
        type=at_least(1),
        default=32,
        help="maximum turns of an episode (default: %(default)s)",
    )
    option(
        "--max-tokens",
        metavar="N",
        type=at_least(1),
        help="maximum tokens that the model writes in an episode (default: no limit)",
    )
    option(
        "--concurrency", metavar="N", type=at_least(1), default=64, help="concurrent sessions (default: %(default)s)"
    )

    policy = parser.add_argument_group("policy")
    policy.add_argument("--policy", default="random", help=f"{POLICIES} (default: %(default)s)")
    policy.add_argument(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        help="seed of the random policy and of the run (default: %(default)s)",
    )
    add_endpoint_options(policy)

    broken = parser.add_argument_group("on infrastructure failure")
    broken.add_argument(
        "--retries", metavar="N", type=at_least(0), default=2, help="retries in fresh sessions (default: %(default)s)"
    )
    broken.add_argument(
        "--incomplete",
        choices=["keep", "drop", "refill"],
        default="keep",
        help="keep an incomplete group with at least two valid members, drop it, or play another task instead",
    )

    results = parser.add_argument_group("results")
    results.add_argument("--score-group", action="store_true", help="score groups with the environment's score_group")
    results.add_argument(
        "--out", metavar="FILE", help="write each episode as a line of JSON (see ors_gym.reporting.records)"
    )
    results.add_argument("--resume", action="store_true", help="continue FILE with the tasks that it does not have yet")
    results.add_argument("--report", metavar="FILE", help="write the run as an HTML page")
    results.add_argument("--json", action="store_true", help="print the summary as JSON, and nothing else")


def rollout_command(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command."""
    return asyncio.run(_Rollout(arguments, console).run())


class _Rollout:
    def __init__(self, arguments: argparse.Namespace, console: Console) -> None:
        self.arguments = arguments
        self.console = console
        self.secrets = secrets(arguments)
        self.policy = make_policy(arguments.policy, arguments)
        self.hidden = tuple(filter(None, (*hidden_values(arguments), *model_keys(arguments))))
        self.num_groups = -(-arguments.episodes // arguments.group_size)
        self.groups: list[TrajectoryGroup] = []
        self.settings: dict[str, Any] = {}
        self.title = ""
        self.server_version: str | None = None
        self.ended = "interrupted"
        if arguments.resume and not arguments.out:
            raise InputError("--resume needs the file to continue: give --out")
        if arguments.out and Path(arguments.out).exists() and not arguments.resume:
            raise InputError(f"{arguments.out} already exists: continue it with --resume")

    async def run(self) -> int:
        arguments = self.arguments
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(make_client(arguments))
            if isinstance(
                self.policy, AbstractAsyncContextManager
            ):  # an endpoint's connections, a local model's thread
                await stack.enter_async_context(self.policy)
            env_name = await choose_env(client, arguments.env)
            split = await choose_split(client, env_name, arguments.split)
            self.settings = {name: value for name, value in vars(arguments).items() if name not in NOT_SETTINGS}
            self.settings |= {"env": env_name, "split": split}
            if isinstance(self.policy, ChatPolicy):
                self.settings["endpoint"] = self.policy.url
            with suppress(ORSError):
                self.server_version = await client.version()
            self.title = f"{arguments.policy} policy on {env_name}:{split}"
            refills = FailurePolicy().refills if arguments.incomplete == "refill" else 0
            tasks = await load_tasks(client, env_name, split, limit=self.num_groups * (1 + refills))
            if not tasks:
                raise InputError(f"split {split!r} has no tasks")
            with _naming("--out"):
                writer = stack.enter_context(self._writer()) if arguments.out else None
            self._write_report(None, client.url)  # fails early if the file cannot be written
            limits = RolloutLimits(
                arguments.max_turns, max_concurrent_sessions=arguments.concurrency, max_tokens=arguments.max_tokens
            )
            runner = EpisodeRunner(client, self.policy, limits=limits, **session_options(arguments))
            try:
                await self._play(runner, tasks, writer)
                self.ended = "finished"
            except Exception as error:
                self.ended = f"stopped by {type(error).__name__}"
                raise
            finally:  # also on Ctrl-C, with the episodes so far
                whole = Summary.of(self.groups)
                self._sum_up(whole, client.url, time.monotonic() - began)
        return FAILURE if whole.episodes and whole.failed == whole.episodes else 0

    async def _play(self, runner: EpisodeRunner, tasks: tuple[TaskRef, ...], writer: TrajectoryWriter | None) -> None:
        arguments = self.arguments
        finished = Counter(group.task for group in self.groups)
        num_resumed = len(self.groups)
        num_groups = max(0, self.num_groups - num_resumed)
        playing = run_groups(
            runner,
            remaining_tasks(TaskSampler(tasks, order="sequential"), finished),
            arguments.group_size,
            num_groups=num_groups,
            failures=FailurePolicy(retries=arguments.retries, incomplete=arguments.incomplete),
            score_group=None if arguments.score_group else False,
            seed=arguments.seed,
            max_concurrent_groups=max(1, arguments.concurrency // arguments.group_size),
        )
        shown = Console(stderr=True, highlight=False) if arguments.json else self.console
        with RunProgress(self.title, console=shown) as progress:
            progress.steps(num_groups, name="Playing", unit="task")
            returns: list[float] = []
            # Ctrl-C ends the running episodes before the client closes.
            async with aclosing(playing) as results:
                async for group in results:
                    if writer is not None:
                        writer.write_group(group)
                    self.groups.append(group)
                    returns += (value for value in map(trajectory_return, group.members) if value is not None)
                    failures = Counter(failure.kind for failure in group.failures)
                    progress.update(
                        min(len(self.groups) - num_resumed, num_groups),
                        reward=math.fsum(returns) / len(returns) if returns else None,
                        episodes=len(group.members),
                        failures=failures,
                    )
            progress.finish()

    def _writer(self) -> TrajectoryWriter:
        """The record file; the episodes of a resumed file count as played."""
        path = self.arguments.out
        run = {name: self.settings[name] for name in IDENTITY}
        if self.arguments.resume and Path(path).exists():
            try:
                first = next(read_records(path), None)
                self.groups = [group for group in read_groups(path) if not group.dropped]
            except ValueError as error:
                raise InputError(str(error)) from None
            for name, value in run.items():
                if first is not None and first.run.get(name) != value:
                    raise InputError(f"{path} was recorded with {name}={first.run.get(name)!r}, not {value!r}")
        return TrajectoryWriter(path, run=run | {"server_version": self.server_version}, secrets=self.hidden)

    def _sum_up(self, whole: Summary, url: str, seconds: float) -> None:
        arguments = self.arguments
        if arguments.json:
            print(json.dumps(self._summary(whole, seconds)))
        else:
            _print_summary(self.console, whole, self.groups)
        self._write_report(seconds, url)
        if arguments.json:
            return
        if arguments.report:
            say(self.console, f"The report is at {Path(arguments.report).resolve().as_uri()}")
        if arguments.out:
            say(self.console, f"The episodes are in {arguments.out}")

    def _write_report(self, seconds: float | None, url: str) -> None:
        """Write the page if requested; ``seconds`` is None before the run."""
        if not self.arguments.report:
            return
        record = RunRecord(self.title, f"Played on {url}.", self.settings)
        if self.arguments.out:
            record.records = path_from(self.arguments.report, self.arguments.out)
        if seconds is not None:
            steps = [StepRecord.from_groups(1, self.groups, seconds=seconds)] if self.groups else []
            record.steps, record.ended = steps, self.ended
            record.samples = [
                Sample(member, label=f"Task {number}", episode_return=trajectory_return(member), group=str(number))
                for number, group in enumerate(self.groups)
                for member in group.members
            ]
        with _naming("--report"):
            write_report(self.arguments.report, record, secrets=self.hidden)

    def _summary(self, whole: Summary, seconds: float) -> Mapping[str, Any]:
        """The run's numbers, null if undefined."""
        return {
            "ended": self.ended,
            "env": self.settings["env"],
            "split": self.settings["split"],
            "policy": self.settings["policy"],
            "groups": whole.groups,
            "dropped_groups": whole.dropped_groups,
            "episodes": whole.episodes,
            "scored": whole.scored,
            "unrewarded": whole.unrewarded,
            "failed": whole.failed,
            "mean_return": whole.mean_return,
            "return_std": whole.return_std,
            "mean_turns": whole.mean_turns,
            "tokens": whole.tokens or 0,
            "stop_reasons": whole.stop_reasons,
            "tool_calls": whole.tool_calls,
            "tool_errors": whole.tool_errors,
            "failures": whole.failures,
            "seconds": round(seconds, 3),
        }


@contextmanager
def _naming(option: str) -> Generator[None, None, None]:
    """Prefix the errors of a file or port with its option."""
    try:
        yield
    except (OSError, OverflowError) as error:  # OverflowError: a port beyond 65535
        raise InputError(f"{option}: {error}") from None


def _print_summary(console: Console, whole: Summary, groups: list[TrajectoryGroup]) -> None:
    table = Table.grid(padding=(0, 2))
    value = "none" if whole.mean_return is None else f"{whole.mean_return:.3f}"
    table.add_row("mean return", f"{value} ({whole.outcomes()})")
    table.add_row("mean turns", "-" if whole.mean_turns is None else f"{whole.mean_turns:.1f}")
    counted = {"stop reasons": whole.stop_reasons, "tool calls": whole.tool_calls, "failures": whole.failures}
    for name, totals in counted.items():
        counts = sorted(totals.items(), key=lambda item: -item[1])
        words = ", ".join(f"{visible(key)} {count:,}" for key, count in counts[:8])
        more = f", {len(counts) - 8} more" if len(counts) > 8 else ""
        table.add_row(name, (words or "none") + more)
    last = next((group.failures[-1] for group in reversed(groups) if group.failures), None)
    if last is not None:
        table.add_row("last failure", visible(" ".join(last.message.split())))
    if whole.tool_errors:
        table.add_row("tool errors", f"{whole.tool_errors:,} calls raised")
    if whole.dropped_groups:
        table.add_row("dropped groups", f"{whole.dropped_groups:,} of {len(groups):,}")
    console.print(table)
