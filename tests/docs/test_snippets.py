"""Every snippet of README, CONTRIBUTING and the documentation runs, or says why it does not."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.chat_server import says, serve_chat
from tests.support.ors_servers import RunningServer, serve
from tests.support.paths import ROOT
from tests.support.snippets import Snippet, as_json, commands_of, read_snippets
from tests.support.tiny import Buttons, make_model, make_tokenizer

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPETS = [
    snippet for page in PAGES for snippet in read_snippets(str(page.relative_to(ROOT)), page.read_text("utf-8"))
]
RUN = [snippet for snippet in SNIPPETS if not snippet.not_run]
ADDRESS = "http://127.0.0.1:8080"
ENDPOINT = "http://127.0.0.1:8000/v1"
SHORTER = "max_steps=1, use_cpu=True, bf16=False, report_to='none'"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serve(Buttons) as running:
        yield running


@pytest.fixture(scope="module")
def failures(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[bool], dict]]:
    """Run all snippets that need the core and the server only, or all others, in one process; what each failed with."""
    with serve_chat() as chat:
        chat.answers = [says("enough")]

        @cache
        def model() -> Path:
            """A model and its tokenizer in a folder, as a hub's would lie in the cache."""
            folder, tokenizer = tmp_path_factory.mktemp("model"), make_tokenizer()
            make_model(tokenizer, seed=0).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            return folder

        def as_run(snippet: Snippet) -> Snippet:
            # Only what a test cannot have is replaced: addresses, a hub's model, the length of a training, its GPU.
            text = snippet.text.replace(ADDRESS, server.url).replace(ENDPOINT, chat.url)
            if "Qwen/Qwen3-0.6B" in text:
                text = text.replace("Qwen/Qwen3-0.6B", str(model())).replace("max_steps=100", SHORTER)
            return Snippet(**{**vars(snippet), "text": text})

        @cache
        def failures(core: bool) -> dict[str, str | None]:
            given = as_json([as_run(snippet) for snippet in RUN if (snippet.group == "core") is core])
            done = subprocess.run(
                [sys.executable, "-m", "tests.support.snippets"],
                input=given,
                cwd=tmp_path_factory.mktemp("pages"),
                env=environment(),
                capture_output=True,
                text=True,
                timeout=280,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            print(done.stderr)  # how long each took
            return json.loads(done.stdout.splitlines()[-1])

        yield failures


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "integrations")])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "160"}


@pytest.mark.parametrize("snippet", RUN, ids=lambda snippet: snippet.name)
def test_a_snippet_runs_as_it_stands(snippet: Snippet, failures: Callable[[bool], dict], server: RunningServer):
    failure = failures(snippet.group == "core")[snippet.name]

    assert failure is None, failure
    assert not server.live_sessions


def test_the_first_snippet_of_readme_prints_what_its_comments_say(server: RunningServer):
    first = next(snippet.text for snippet in SNIPPETS if snippet.language == "python")

    done = subprocess.run(
        [sys.executable, "-c", first.replace(ADDRESS, server.url)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=110,
    )

    assert done.returncode == 0, done.stderr
    prompt, found, end = done.stdout.splitlines()
    assert prompt == "find the button ."
    assert re.fullmatch("it is (red|green|blue) .", found)
    assert end == "1.0 True"


def test_a_snippet_that_is_not_run_is_python_all_the_same():
    for snippet in SNIPPETS:
        if snippet.not_run and snippet.language == "python":
            compile(snippet.text, snippet.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_every_other_command_names_what_there_is():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    for snippet in RUN:
        for words in commands_of(snippet) if snippet.language == "sh" else []:
            match words:
                case ["make", target, *_]:
                    assert target in targets, snippet.name
                case ["pip", "install", *rest]:
                    asked = re.findall(r"(?:\.|ors-gym)\[([\w,]+)\]", " ".join(rest))
                    assert all(extra in extras for names in asked for extra in names.split(",")), snippet.name
                case ["python", script, *_]:
                    assert (ROOT / script).is_file(), snippet.name
                case ["ors-gym", *_] | [".", ".venv/bin/activate"]:
                    pass
                case _:
                    pytest.fail(f"{snippet.name}: no test knows {words[0]!r}; say <!-- not run: why --> above it")


def test_the_notebook_runs_where_an_event_loop_runs(server: RunningServer, tmp_path: Path):
    """Top-level await, cell by cell in one event loop, as a notebook's kernel runs them."""
    cells = json.loads((ROOT / "docs/notebooks/first_episodes.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]).replace(ADDRESS, server.url) for cell in cells if cell["cell_type"] == "code"]
    program = """
import ast, asyncio, inspect, json, sys

async def kernel(cells):
    namespace = {"__name__": "__main__"}
    for cell in cells:
        result = eval(compile(cell, "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), namespace)
        if inspect.iscoroutine(result):
            await result

asyncio.run(kernel(json.load(sys.stdin)))
"""

    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(sources),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=110,
    )

    assert done.returncode == 0, done.stderr
    assert "scripted.jsonl 32 1.0" in done.stdout
    assert not server.live_sessions
