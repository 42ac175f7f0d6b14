"""An episode on a terminal, played by a person.

What an environment says is untrusted: its control characters never reach the terminal.
"""

from __future__ import annotations

import importlib
import json
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ors_gym.client.portal import Portal
from ors_gym.client.session import Session
from ors_gym.rollouts.exchange import Conversation
from ors_gym.rollouts.options import SessionOptions
from ors_gym.rollouts.returns import reduce_rewards
from ors_gym.trajectory import Reply
from ors_gym.types import Block, ImageBlock, TextBlock, ToolCall, ToolOutput, ToolSpec

__all__ = ["play_episode", "print_tools", "say", "visible"]


def play_episode(portal: Portal, session: Session, console: Console, options: SessionOptions) -> None:
    """Show the prompt and the tools, and play the moves that are read until the episode or the input ends."""
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
    say(console, "You left before the episode was over.")


def _moves(console: Console, tools: Sequence[ToolSpec]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read moves until the end of the input or :quit."""
    typed = sys.stdin.isatty()
    if typed:
        with suppress(ImportError):  # Windows has none
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
                problem = str(given) if isinstance(given, ValueError) else "it is no JSON object"
                say(console, f'The input was not understood ({problem}). Write: {name} {{"name": "value"}}', "red")


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


def visible(text: str) -> str:
    """``text`` from outside, without the control characters that would drive the terminal."""
    return "".join("\ufffd" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)


def say(console: Console, text: str, style: str = "") -> None:
    """Print a text as it is: no markup, no line breaks of ours."""
    console.print(Text(visible(text), style=style), soft_wrap=True)


def _signature(tool: ToolSpec) -> str:
    schema = tool.input_schema or {}
    required = schema.get("required") or ()
    properties = cast("Mapping[str, Any]", schema.get("properties") or {})
    shared = cast("Mapping[str, Any]", schema.get("$defs") or {})
    arguments = [f"{name}{'' if name in required else '?'}: {_kind(kind, shared)}" for name, kind in properties.items()]
    return f"{tool.name}({', '.join(arguments)})"


def _kind(schema: Any, shared: Mapping[str, Any]) -> str:
    """A few words for a JSON Schema, which may refer to ``shared`` ones: enough to type an input by."""
    if not isinstance(schema, dict):
        return "any"
    kinds = cast("dict[str, Any]", schema)
    referred = str(kinds.get("$ref", "")).removeprefix("#/$defs/")
    if referred in shared:  # once: a schema may refer to itself
        return _kind(shared[referred], {name: each for name, each in shared.items() if name != referred})
    if "enum" in kinds:
        return "|".join(json.dumps(value) for value in kinds["enum"])
    if "anyOf" in kinds:
        return "|".join(_kind(option, shared) for option in kinds["anyOf"])
    if kinds.get("type") == "array":
        return f"[{_kind(kinds.get('items'), shared)}]"
    return str(kinds.get("type", "object" if "$ref" in kinds else "any"))


def print_tools(console: Console, tools: Sequence[ToolSpec]) -> None:
    """Print each tool's name with its arguments, and its description."""
    table = Table.grid(padding=(0, 2))
    for tool in tools:
        description = " ".join(tool.description.split())
        table.add_row("", Text(visible(_signature(tool)), style="cyan"), Text(visible(description)))
    console.print(table)
