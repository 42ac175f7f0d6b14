"""The commands against servers whose every word drives a terminal, or is damaged: they print text, and end in words."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ors_gym.cli.main import main
from tests.hostile.attempts import Attempt
from tests.hostile.inputs import Inputs
from tests.support.scripted_server import RESULT, ScriptedORS, events, json_answer

__all__ = ["attempts_of_commands"]

CONTROLS = ("\x1b]52;c;eA==\x07", "\x1b[2J", "\x9b31m", "\u202e", "\u2066", "\r", "\x08", "\x00", "[red]", "\u2028")
UNSEEN = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What no command prints to a file: it has no colours there. A carriage return ends the lines of Windows."""


def answers(word: str, inputs: Inputs) -> dict[str, Any]:
    """A server of this word; in a third of all cases one answer is damaged, or an error."""
    tools = [{"name": name, "description": word, "input_schema": None} for name in (f"act{word}", "__proto__", "act")]
    output = {"blocks": [{"type": "text", "text": word}], "reward": 1.0, "finished": True, "metadata": {word: word}}
    sound: dict[str, Any] = {
        "list_environments": [f"bad{word}"],
        "splits": [{"name": f"train{word}", "type": "test"}],
        "tools": {"tools": tools},
        "task_tools": {"tools": tools},
        "task": {"task": {"id": word, word: word}},
        "tasks": {"tasks": [{"id": word}], "env_name": f"bad{word}"},
        "prompt": [{"type": "text", "text": word}],
    }
    made = {name: json_answer(value) for name, value in sound.items()}
    made["call"] = events(("task_id", "t"), ("end", json.dumps({**RESULT, "output": output})))
    kind, name = inputs.random.randrange(6), inputs.random.choice((*sound, "call", "create"))
    if kind == 0:
        made[name] = json_answer({"detail": word}, status=inputs.random.choice(("400 No", "404 No", "500 No")))
    elif kind == 1:
        value = sound.get(name, RESULT)
        made[name] = json_answer(json.dumps(inputs.damaged(value)))
    elif kind == 2:
        line = " ".join(word.encode("utf-8", "replace").decode().splitlines())
        made["call"] = events(("task_id", "t"), ("error", line or "no"))
    return made


def printed(arguments: list[str]) -> str:
    """What a command prints; nothing is typed into it."""
    out, stdin = io.StringIO(), sys.stdin
    sys.stdin = io.StringIO("")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):
            main(arguments)
    finally:
        sys.stdin = stdin
    return out.getvalue()


async def attempt(given: dict[str, Any], command: list[str], folder: Path) -> str:
    """Run the command on such a server."""
    async with ScriptedORS(given) as server:
        name, *options = command
        options = [option.format(folder=folder) for option in options]
        shown = await asyncio.to_thread(printed, [name, server.url, *options, "--timeout", "10"])
    found = {f"U+{ord(each):04X}" for each in UNSEEN.findall(shown.replace("\r\n", "\n"))}
    return f"it prints {', '.join(sorted(found))}" if found else ""


def attempts_of_commands(inputs: Inputs, count: int) -> Iterator[tuple[str, Attempt]]:
    """Each command in turn."""
    for number in range(count):
        folder = Path(tempfile.mkdtemp(prefix="ors-gym-hostile-"))
        commands = (
            ["list"],
            ["play"],
            ["check"],
            ["rollout", "--episodes", "2", "--out", "{folder}/run.jsonl", "--report", "{folder}/page.html"],
            ["eval", "--model", "random", "--out", "{folder}/eval"],
        )
        command = commands[number % len(commands)]
        word = "".join(inputs.random.choice(CONTROLS) for _ in range(3)) + inputs.text()[:100]
        yield f"{command[0]} {word!r}", partial(attempt, answers(word, inputs), command, folder)
