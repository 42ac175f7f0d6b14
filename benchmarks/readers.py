"""Time against size for every reader of model text, on its slowest text.

    python benchmarks/readers.py [--size 10000000]

Every dialect reads hostile texts of a tenth of a megabyte: one piece repeated after the start of a call. The slowest
text is then read at growing sizes. A linear reader takes ten times as long for ten times the size.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from ors_gym.dialects import DIALECTS, Dialect
from ors_gym.policies.completion import Completion
from ors_gym.policies.names import ToolNames
from ors_gym.types import ToolSpec
from tests.support.hostile_texts import OPENINGS, PIECES

TOOLS = [ToolSpec("f", "", {"type": "object", "properties": {"s": {"type": "string"}, "n": {"type": "integer"}}})]


def reading(dialect: Dialect, text: str) -> Callable[[], object]:
    """A dialect that reads a text."""
    return lambda: dialect.parse(text, tools=TOOLS)


def seconds(work: Callable[[], object]) -> float:
    """Processor time of a function."""
    started = time.process_time()
    work()
    return time.process_time() - started


def of_size(opening: str, piece: str, size: int) -> str:
    """A hostile text."""
    return opening + piece * (size // len(piece))


def worst(dialect: Dialect, size: int) -> tuple[str, str]:
    """The start and the repeated piece of the dialect's slowest text."""
    texts = [(opening, piece) for opening in ("", *OPENINGS[dialect.name]) for piece in PIECES]
    return max(texts, key=lambda text: seconds(reading(dialect, of_size(*text, size))))


def completion(size: int) -> Callable[[], object]:
    """A chat completion that streams the arguments of one call."""
    piece = 1_000
    chunks = [{"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "x" * piece}}]}}]}]
    chunks *= size // piece

    def read() -> None:
        answer = Completion()
        answer.feed({"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f"}}]}}]})
        for chunk in chunks:
            answer.feed(chunk)
        answer.reply(DIALECTS["plain"], ToolNames(TOOLS), TOOLS)

    return read


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
    row("completion", [seconds(completion(size)) for size in sizes], "arguments in pieces")


def row(name: str, times: list[float], text: str) -> None:
    """Print one row of the table."""
    print(f"| {name} | {' | '.join(f'{each * 1000:.1f} ms' for each in times)} | {text} |", flush=True)


if __name__ == "__main__":
    main()
