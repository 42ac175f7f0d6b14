"""The command line: ``ors-gym list``, ``check``, ``play`` and ``rollout``, each with a ``--help`` that teaches."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from importlib import metadata
from statistics import fmean
from typing import NoReturn, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ors_gym.advantages import trajectory_return
from ors_gym.client import ORSClient
from ors_gym.errors import ORSError
from ors_gym.play import play_episode, print_tools, say, visible
from ors_gym.policy import Policy, RandomPolicy
from ors_gym.portal import Portal
from ors_gym.progress import RunProgress
from ors_gym.report import RunRecord, Sample, StepRecord, write_report
from ors_gym.rollout import EpisodeRunner, RolloutLimits, run_groups
from ors_gym.tasks import TaskSampler, load_tasks
from ors_gym.testing import Outcome, check_server
from ors_gym.trajectory import TrajectoryGroup

__all__ = ["main"]

FAILURE, BAD_INPUT, INTERRUPTED = 1, 2, 130

OVERVIEW = """\
Look at, check, play and roll out environments of the Open Reward Standard (ORS).

  ors-gym list http://localhost:8080                    what is there: environments, splits, tools
  ors-gym check http://localhost:8080                   does the server keep to the protocol?
  ors-gym play http://localhost:8080 --env wordle       play an episode yourself
  ors-gym rollout http://localhost:8080 --episodes 100  play a hundred at random, as a baseline
"""

PLAY = """\
Type a tool's name and its input as JSON, for example:

  > look
  > press {"color": "red"}

:tools lists the tools, :quit leaves. Moves are also read from a file or a pipe:

  printf 'look\\npress {"color": "red"}\\n' | ors-gym play http://localhost:8080
"""

ROLLOUT = """\
examples:
  ors-gym rollout http://localhost:8080 --episodes 256 --report random.html
  ors-gym rollout http://localhost:8080 --env wordle --split test --policy my_agents:GreedyPolicy

A policy of your own is an object with `async def act(self, turn: Turn) -> Reply` (see ors_gym.policy), or a class or
function that makes one without arguments. It is named as module:name.
"""


class _InputError(Exception):
    """What was asked for does not make sense here: exit status 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for a failure, 2 for bad input, 130 for Ctrl-C."""
    arguments = _parser().parse_args(argv)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    try:
        return cast("int", arguments.command(arguments, console))
    except _InputError as error:
        return _complain(str(error), BAD_INPUT)
    except ORSError as error:
        return _complain(str(error), FAILURE)
    except KeyboardInterrupt:
        print(file=sys.stderr)  # what comes next begins on a line of its own
        return INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE


def _complain(message: str, status: int) -> int:
    print(f"ors-gym: {visible(' '.join(message.split()))}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("ors-gym", description=OVERVIEW, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--version", action="version", version=f"ors-gym {metadata.version('ors-gym')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace, Console], int], summary: str, epilog: str = ""
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(command=run)
        added.add_argument("url", help="the server, for example http://localhost:8080")
        added.add_argument("--env", metavar="NAME", help="the environment (default: the server's first)")
        added.add_argument("--api-key", metavar="KEY", help="default: the environment variable ORS_API_KEY")
        return added

    def choose_task(added: argparse.ArgumentParser) -> None:
        added.add_argument("--split", metavar="NAME", help="the split (default: one of type train)")
        added.add_argument(
            "--secret",
            metavar="NAME[=VALUE]",
            action="append",
            default=[],
            help="a secret that the environment needs; without a value it is read from the environment variable",
        )

    command("list", _list, "list a server's environments, splits and tools")
    check = command("check", _check, "check that a server keeps to the protocol; no tool is run")
    play = command("play", _play, "play an episode yourself", PLAY)
    rollout = command("rollout", _rollout, "play episodes with a policy and sum them up", ROLLOUT)
    for added in (check, play, rollout):
        choose_task(added)
    for added in (check, play):
        added.add_argument("--index", type=_count(0), default=0, help="the task's index (default: %(default)s)")
    rollout.add_argument("--episodes", type=_count(1), default=64, help="how many (default: %(default)s)")
    rollout.add_argument("--group-size", type=_count(1), default=1, help="episodes of one task (default: %(default)s)")
    rollout.add_argument("--policy", default="random", help="random, or module:name (default: %(default)s)")
    rollout.add_argument("--max-turns", type=_count(1), default=32, help="of an episode (default: %(default)s)")
    rollout.add_argument("--concurrency", type=_count(1), default=64, help="sessions at once (default: %(default)s)")
    rollout.add_argument("--seed", type=int, default=0, help="of the random policy (default: %(default)s)")
    rollout.add_argument("--report", metavar="FILE", help="write the run as an HTML page")
    return parser


def _count(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}")
        return int(text)

    return count


# ------------------------------------------------------------------- what all commands share


def _client(arguments: argparse.Namespace) -> ORSClient:
    try:
        return ORSClient(arguments.url, api_key=_api_key(arguments))
    except ValueError as error:
        raise _InputError(str(error)) from None


def _api_key(arguments: argparse.Namespace) -> str | None:
    return arguments.api_key or os.environ.get("ORS_API_KEY")


async def _choose_env(client: ORSClient, wanted: str | None) -> str:
    return _one_of(await client.list_environments(), wanted, "environment")


async def _choose_split(client: ORSClient, env_name: str, wanted: str | None) -> str:
    splits = sorted(await client.list_splits(env_name), key=lambda split: split.type != "train")
    return _one_of([split.name for split in splits], wanted, "split")


def _one_of(names: Sequence[str], wanted: str | None, what: str) -> str:
    if not names:
        raise _InputError(f"the server has no {what}")
    known = {name.lower(): name for name in names}
    if wanted is not None and wanted.lower() not in known:
        raise _InputError(f"there is no {what} {wanted!r}; there is {', '.join(names)}")
    return names[0] if wanted is None else known[wanted.lower()]


def _secrets(arguments: argparse.Namespace) -> dict[str, str]:
    secrets: dict[str, str] = {}
    for item in arguments.secret:
        name, given, value = item.partition("=")
        if not given and name not in os.environ:
            raise _InputError(f"--secret {name}: there is no environment variable of that name; or write {name}=VALUE")
        secrets[name] = value if given else os.environ[name]
    return secrets


# ------------------------------------------------------------------- list


def _list(arguments: argparse.Namespace, console: Console) -> int:
    async def show() -> None:
        async with _client(arguments) as client:
            names = [await _choose_env(client, arguments.env)] if arguments.env else await client.list_environments()
            for name in names:
                say(console, name, "bold")
                for split in await client.list_splits(name):
                    count = await client.num_tasks(name, split.name)
                    kind = "" if split.type == split.name else f"  ({split.type})"
                    say(console, f"  {split.name}{kind}  {count:,} task{'' if count == 1 else 's'}")
                tools = await client.list_tools(name)
                print_tools(console, tools.tools)
                if tools.terminal_tool is not None:
                    say(console, f"  a plain message goes to {tools.terminal_tool.name} and ends it")

    asyncio.run(show())
    return 0


# ------------------------------------------------------------------- check


def _check(arguments: argparse.Namespace, console: Console) -> int:
    styles = {Outcome.PASS: "green", Outcome.FAIL: "bold red", Outcome.SKIP: "yellow"}
    _client(arguments)  # says what is wrong with the URL
    work = check_server(
        arguments.url,
        env_name=arguments.env,
        split=arguments.split,
        index=arguments.index,
        api_key=_api_key(arguments),
        secrets=_secrets(arguments),
    )
    report = asyncio.run(work)
    table = Table.grid(padding=(0, 2))
    for check in report.checks:
        message = Text(visible(check.message))
        if check.outcome is Outcome.FAIL:
            message.append(f"\nExpected: {check.statement}", style="dim")
        table.add_row(Text(check.outcome, style=styles[check.outcome]), check.name, message)
    console.print(table)
    counts = Counter(check.outcome for check in report.checks)
    say(console, f"{counts[Outcome.PASS]} passed, {counts[Outcome.FAIL]} failed, {counts[Outcome.SKIP]} skipped")
    return 0 if report.ok else FAILURE


# ------------------------------------------------------------------- play


def _play(arguments: argparse.Namespace, console: Console) -> int:
    with Portal() as portal:  # keeps the session alive while a person thinks
        client = _client(arguments)
        try:
            env_name = portal.run(_choose_env(client, arguments.env))
            split = portal.run(_choose_split(client, env_name, arguments.split))
            session = client.session(env_name, split=split, index=arguments.index, secrets=_secrets(arguments) or None)
            try:
                portal.run(session.open())
                say(console, f"{env_name}:{split}[{arguments.index}]", "bold")
                play_episode(portal, session, console)
            finally:
                portal.run(session.close())
        finally:
            portal.run(client.aclose())
    return 0


# ------------------------------------------------------------------- rollout


def _policy(arguments: argparse.Namespace) -> Policy:
    if arguments.policy == "random":
        return RandomPolicy(arguments.seed)
    module, colon, name = arguments.policy.partition(":")
    if not colon:
        _wrong_policy(arguments.policy, "write random, or module:name")
    if "" not in sys.path:
        sys.path.insert(0, "")  # modules of the working directory, as for python -m
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        _wrong_policy(arguments.policy, str(error))
    makes_one = isinstance(found, type) or (callable(found) and not hasattr(found, "act"))
    made = found() if makes_one else found
    if not hasattr(made, "act"):
        _wrong_policy(arguments.policy, "it has no method act")
    return cast("Policy", made)


def _wrong_policy(policy: str, problem: str) -> NoReturn:
    raise _InputError(f"--policy {policy}: {problem}")


def _rollout(arguments: argparse.Namespace, console: Console) -> int:
    return asyncio.run(_rollout_async(arguments, console))


async def _rollout_async(arguments: argparse.Namespace, console: Console) -> int:
    policy, secrets = _policy(arguments), _secrets(arguments)
    limits = RolloutLimits(arguments.max_turns, max_concurrent_sessions=arguments.concurrency)
    groups: list[TrajectoryGroup] = []
    returns: list[float] = []
    async with _client(arguments) as client:
        env_name = await _choose_env(client, arguments.env)
        split = await _choose_split(client, env_name, arguments.split)
        num_groups = -(-arguments.episodes // arguments.group_size)
        tasks = await load_tasks(client, env_name, split, limit=num_groups)
        if not tasks:
            raise _InputError(f"split {split!r} has no tasks")
        runner = EpisodeRunner(client, policy, limits=limits, secrets=secrets or None)
        began = time.monotonic()
        title = f"{arguments.policy} policy on {env_name}:{split}"
        with RunProgress(title, console=console) as progress:
            progress.steps(num_groups, name="Playing", unit="task")
            playing = run_groups(
                runner,
                TaskSampler(tasks, order="sequential").take(num_groups),
                arguments.group_size,
                max_concurrent_groups=max(1, arguments.concurrency // arguments.group_size),
            )
            # Ctrl-C ends the episodes under way before the client goes.
            async with aclosing(cast("AsyncGenerator[TrajectoryGroup]", playing)) as results:
                async for group in results:
                    groups.append(group)
                    returns += [value for value in map(trajectory_return, group.members) if value is not None]
                    failures = Counter(failure.kind for failure in group.failures)
                    mean = fmean(returns) if returns else None
                    progress.update(len(groups), reward=mean, episodes=len(group.members), failures=failures)
            whole = StepRecord.from_groups(1, groups, seconds=time.monotonic() - began)
            progress.finish()
    _print_summary(console, whole)
    if arguments.report:
        hidden = ("command", "secret", "api_key", "report")
        settings = {name: value for name, value in vars(arguments).items() if name not in hidden}
        settings |= {"env": env_name, "split": split}
        record = RunRecord(title, f"Played on {client.url}.", settings, steps=[whole], ended="finished")
        record.samples = [
            Sample(member, label=f"Task {number}", episode_return=trajectory_return(member), group=str(number))
            for number, group in enumerate(groups)
            for member in group.members
        ]
        path = write_report(arguments.report, record, secrets=(*secrets.values(), _api_key(arguments) or ""))
        say(console, f"The report is at {path.resolve().as_uri()}")
    return FAILURE if set(whole.stop_reasons) == {"failed"} else 0


def _print_summary(console: Console, whole: StepRecord) -> None:
    table = Table.grid(padding=(0, 2))
    spread = "" if whole.reward_std is None else f" (standard deviation {whole.reward_std:.3f})"
    table.add_row("mean return", "none given" if whole.reward is None else f"{whole.reward:.3f}{spread}")
    table.add_row("mean turns", "-" if whole.turns is None else f"{whole.turns:.1f}")
    counted = {"stop reasons": whole.stop_reasons, "tool calls": whole.tool_calls, "failures": whole.failures}
    for name, totals in counted.items():
        counts = sorted(totals.items(), key=lambda item: -item[1])
        words = ", ".join(f"{visible(key)} {count:,}" for key, count in counts[:8])
        more = f", {len(counts) - 8} more" if len(counts) > 8 else ""
        table.add_row(name, (words or "none") + more)
    console.print(table)
