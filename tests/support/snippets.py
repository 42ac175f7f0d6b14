"""The snippets of README and the documentation, and a program that runs them as they stand.

A fenced block of Python or of the shell is a snippet. A comment on the line above it says more::

    <!-- snippet: trl -->                 needs the packages of that extra, and runs in a process with others of it
    <!-- not run: needs a GPU -->         is not run, and why

The Python snippets of a page share one namespace, from top to bottom. Of shell commands, those of ``ors-gym`` are run,
in the same process; the others are checked by ``tests/docs/test_snippets.py``.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Snippet", "commands_of", "read_snippets"]

FENCE = re.compile(
    r"^(?:<!-- (?P<kind>snippet|not run): (?P<why>.*?) -->\n)?```(?P<language>python|sh)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Snippet:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    group: str = "core"
    not_run: str = ""

    @property
    def name(self) -> str:
        """Where it stands."""
        return f"{self.page}:{self.line}"


def read_snippets(page: str, text: str) -> Iterator[Snippet]:
    """The snippets of a page, in order."""
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        group = match["why"] if match["kind"] == "snippet" else "core"
        not_run = match["why"] if match["kind"] == "not run" else ""
        yield Snippet(page, line, match["language"], match["text"], group, not_run)


def commands_of(snippet: Snippet) -> list[list[str]]:
    """The commands of a shell snippet, as words, without comments."""
    return [words for line in snippet.text.splitlines() if (words := shlex.split(line, comments=True))]


def run_snippets(snippets: Sequence[Snippet]) -> dict[str, str | None]:
    """Run them, each page in a folder of its own; what each failed with, None for those that passed."""
    start, failures, namespaces = Path.cwd(), dict[str, str | None](), dict[str, dict[str, Any]]()
    for snippet in snippets:
        folder = start / snippet.page.replace("/", "-")
        folder.mkdir(exist_ok=True)
        os.chdir(folder)
        namespace = namespaces.setdefault(snippet.page, {"__name__": "__main__"})
        printed, began = io.StringIO(), time.monotonic()
        try:
            with contextlib.redirect_stdout(printed):
                if snippet.language == "python":
                    exec(compile(snippet.text, snippet.name, "exec"), namespace)
                else:
                    for words in commands_of(snippet):
                        run_command(words)
            failures[snippet.name] = None
        except BaseException:
            failures[snippet.name] = printed.getvalue() + traceback.format_exc()
        print(f"{time.monotonic() - began:6.2f} s  {snippet.name}", file=sys.stderr)
    return failures


def run_command(words: list[str]) -> None:
    """Run a command of ``ors-gym``; of those that start servers, which other tests run, only read the arguments."""
    from ors_gym.cli.main import _parser, main

    if words[0] != "ors-gym":
        return
    if words[1] in ("serve", "gates", "demo"):
        _parser(words[1]).parse_args(words[1:])
        return
    try:
        status = main(words[1:])
    except SystemExit as ended:  # --help
        status = int(ended.code or 0)
    assert status == 0, f"{shlex.join(words)} ended with {status}"


def as_json(snippets: Sequence[Snippet]) -> str:
    """What the program reads."""
    return json.dumps([asdict(snippet) for snippet in snippets])


if __name__ == "__main__":
    given = [Snippet(**fields) for fields in json.load(sys.stdin)]
    if any(snippet.group == "ray" for snippet in given):
        import ray

        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    print("\n" + json.dumps(run_snippets(given)))
