"""``ors-gym play``: play an episode interactively."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, cast

from rich.console import Console

from ors_gym.cli.arguments import (
    add_server_options,
    add_task_options,
    at_least,
    choose_env,
    choose_split,
    make_client,
    session_options,
)
from ors_gym.cli.output import print_tools, say
from ors_gym.client.portal import Portal
from ors_gym.client.session import Session
from ors_gym.rollouts.exchange import Conversation
from ors_gym.rollouts.options import SessionOptions, open_session
from ors_gym.rollouts.returns import reduce_rewards
from ors_gym.trajectory import Reply, TaskRef
from ors_gym.types import Block, ImageBlock, TextBlock, ToolCall, ToolOutput, ToolSpec

__all__ = ["EPILOG", "HELP", "add_options", "play_command"]

HELP = "Play an episode yourself."

EPILOG = """\
Type a tool's name and its input as JSON, for example:

  > look
  > press {"color": "red"}

:tools lists the tools, :quit leaves. Moves are also read from a file or a pipe:

  printf 'look\\npress {"color": "red"}\\n' | ors-gym play http://localhost:8080
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_server_options(parser)
    add_task_options(parser)
    parser.add_argument("--index", type=at_least(0), default=0, help="the task's index (default: %(default)s)")


def play_command(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command."""
    with Portal() as portal:  # keeps the session alive between moves
        client = make_client(arguments)
        try:
            env_name = portal.run(choose_env(client, arguments.env))
            split = portal.run(choose_split(client, env_name, arguments.split))
            task = TaskRef(env_name, split, arguments.index)
            options = session_options(arguments)
            session = open_session(client, task, options)
            try:
                portal.run(session.open())
                say(console, f"{env_name}:{split}[{arguments.index}]", "bold")
                _play_episode(portal, session, console, options)
            finally:
                portal.run(session.close())
        finally:
            portal.run(client.aclose())
    return 0


def _play_episode(portal: Portal, session: Session, console: Console, options: SessionOptions) -> None:
    """Show the prompt and tools, and play moves until the episode or the input ends."""
    _print_blocks(console, portal.run(session.get_prompt()))
    tools = portal.run(session.list_tools()).tools
    print_tools(console, tools)
    conversation = Conversation(session, options=options)
    rewards: list[float | None] = []
    for name, input in _moves(console, tools):
        (output,) = portal.run(conversation.play(Reply(tool_calls=(ToolCall(name, input),)))).outputs
        rewards.append(output.reward)
        _print_output(console, output)
        if output.finished:
            total = reduce_rewards(rewards)
            outcome = "No reward was given." if total is None else f"Sum of the rewards: {total:g}"
            say(console, f"The episode is over. {outcome}", "bold")
            return
    say(console, "You left before the end of the episode.")


def _moves(console: Console, tools: Sequence[ToolSpec]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read moves until the end of the input or :quit."""
    typed = sys.stdin.isatty()
    if typed:
        with suppress(ImportError):  # not available on Windows
            importlib.import_module("readline")  # arrow keys and history in input()
    while True:
        try:
            line = input("> ") if typed else next(sys.stdin).rstrip("\n")
        except (EOFError, StopIteration):
            return
        if not typed:
            say(console, f"> {line}", "dim")
        name, _, rest = line.strip().partition(" ")
        if name == ":quit":
            return
        if name == ":tools":
            print_tools(console, tools)
        elif name:
            try:
                given: object = json.loads(rest or "{}")
            except ValueError as error:
                given = error
            if isinstance(given, dict):
                yield name, cast("dict[str, Any]", given)
            else:
                problem = str(given) if isinstance(given, ValueError) else "it is not a JSON object"
                say(console, f'Invalid input ({problem}). Write: {name} {{"name": "value"}}', "red")


def _print_blocks(console: Console, blocks: Sequence[Block]) -> None:
    for block in blocks:
        match block:
            case TextBlock(text=text):
                say(console, text)
            case ImageBlock(data=data, mime_type=kind):
                say(console, f"[an image: {kind}, {len(data) * 3 // 4:,} bytes]", "dim")


def _print_output(console: Console, output: ToolOutput) -> None:
    if output.ok:
        _print_blocks(console, output.blocks)
    else:
        say(console, f"refused ({output.reason or 'no reason'}): {output.error}", "red")
    if output.reward is not None:
        say(console, f"reward {output.reward:g}", "green")
