"""Time against size for every reader of what models and servers send.

    python benchmarks/readers.py [--size 10000000]

Every dialect reads hostile texts of a tenth of a megabyte: one piece after the beginning of a call, again and again.
The text that took longest is then read at growing sizes; the other readers read one text each. A linear reader takes
ten times as long for ten times as much.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from ors_gym.dialects import DIALECTS, Dialect
from ors_gym.http.sse import EventDecoder
from ors_gym.json_text import read_json
from ors_gym.policies.apis import APIS
from ors_gym.policies.names import ToolNames
from ors_gym.redaction import Redactor, visible
from ors_gym.reporting.records import TrajectoryWriter, read_trajectories
from ors_gym.trajectory import Exchange, Reply, StopReason, TaskRef, Trajectory
from ors_gym.types import ToolSpec
from tests.support.hostile_texts import OPENINGS, PIECES

TOOLS = [ToolSpec("f", "", {"type": "object", "properties": {"s": {"type": "string"}, "n": {"type": "integer"}}})]


def reading(dialect: Dialect, text: str) -> Callable[[], object]:
    """A dialect that reads a text."""
    return lambda: dialect.parse(text, tools=TOOLS)


def seconds(work: Callable[[], object]) -> float:
    """Processor time of a piece of work."""
    started = time.process_time()
    work()
    return time.process_time() - started


def of_size(opening: str, piece: str, size: int) -> str:
    """A hostile text."""
    return opening + piece * (size // len(piece))


def worst(dialect: Dialect, size: int) -> tuple[str, str]:
    """The beginning and the piece of the text that takes the dialect longest."""
    texts = [(opening, piece) for opening in ("", *OPENINGS[dialect.name]) for piece in PIECES]
    return max(texts, key=lambda text: seconds(reading(dialect, of_size(*text, size))))


X = "x" * 1_000
CALL = {"index": 0, "function": {"arguments": X}}
PART = {"text": X}
STREAMS: dict[str, dict[str, Any]] = {
    "openai": {"choices": [{"delta": {"tool_calls": [CALL]}}]},
    "anthropic": {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": X}},
    "google": {"candidates": [{"content": {"parts": [PART]}}]},
    "responses": {"type": "response.output_item.done", "item": {"type": "reasoning", "summary": [PART]}},
}
"""The event of each API that brings a thousand characters more."""


def streamed(name: str, size: int) -> Callable[[], object]:
    """An API's answer in pieces."""

    def read() -> None:
        answer = APIS[name].answer()
        for _ in range(size // len(X)):
            answer.feed(STREAMS[name])
        answer.reply(DIALECTS["plain"], ToolNames(TOOLS), TOOLS)

    return read


def events(size: int) -> Callable[[], object]:
    """One event, in pieces."""
    data = b"data: " + b"x" * size + b"\n\n"

    def read() -> None:
        decoder = EventDecoder()
        for start in range(0, len(data), 1_000):
            decoder.feed(data[start : start + 1_000])

    return read


def records(size: int) -> Callable[[], object]:
    """A file of records, each of ten thousand characters."""
    path = Path(tempfile.mkdtemp(), "run.jsonl")
    said = Exchange(Reply("x" * 10_000), ())
    with TrajectoryWriter(path) as writer:
        for _ in range(size // 10_000):
            writer.write(Trajectory("e", TaskRef("e", "train", 0), StopReason.POLICY_STOPPED, (), (said,)))
    return lambda: list(read_trajectories(path))


OTHERS: dict[str, tuple[Callable[[int], Callable[[], object]], str]] = {
    "JSON": (lambda size: lambda: read_json("[" + '"xxxxxxx",' * (size // 10) + "0]"), "an array of short texts"),
    "JSON text": (lambda size: lambda: read_json(json.dumps("\\" * (size // 2))), "a text of backslashes"),
    "events": (events, "one event, a thousand bytes at a time"),
    "records": (records, "episodes"),
    "redaction": (lambda size: lambda: Redactor(["a-secret-of-mine"])("a-secret-of-min" * (size // 15)), "near misses"),
    "visible": (lambda size: lambda: visible("\x1b" * size), "escapes"),
    **{f"answer of {name}": (partial(streamed, name), "a stream") for name in STREAMS},
}
"""The other readers of what models and servers send."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=10_000_000, help="of the largest text (default: %(default)s)")
    largest = parser.parse_args().size
    sizes = [largest // 1000, largest // 100, largest // 10, largest]
    print(f"| reader | {' | '.join(f'{size:,}' for size in sizes)} | text |")
    print("|---" * (len(sizes) + 2) + "|")
    for name, dialect in DIALECTS.items():
        opening, piece = worst(dialect, largest // 100)
        times = [seconds(reading(dialect, of_size(opening, piece, size))) for size in sizes]
        row(name, times, f"`{json.dumps(opening)}` and `{json.dumps(piece)}`, repeated")
    for name, (prepare, text) in OTHERS.items():
        row(name, [seconds(prepare(size)) for size in sizes], text)


def row(name: str, times: list[float], text: str) -> None:
    """Print a row of it."""
    print(f"| {name} | {' | '.join(f'{each * 1000:.1f} ms' for each in times)} | {text} |", flush=True)


if __name__ == "__main__":
    main()
