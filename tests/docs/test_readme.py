"""Every command and every snippet of the README runs."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chat_server import says, serve_chat
from tests.support.ors_servers import RunningServer, serve
from tests.support.paths import ROOT
from tests.support.tiny import Buttons, make_model, make_tokenizer

BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
SNIPPETS = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]
ADDRESS = "http://127.0.0.1:8080"
ENDPOINT = "http://127.0.0.1:8000/v1"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serve(Buttons) as running:
        yield running


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its tokenizer in a folder, as a hub's would lie in the cache."""
    folder, tokenizer = tmp_path_factory.mktemp("model"), make_tokenizer()
    make_model(tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(command: list[str], folder: Path) -> str:
    """Run a command as a user would, in its own folder; its output."""
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_a_snippet_runs_as_it_stands(snippet: str, server: RunningServer, model: Path, tmp_path: Path):
    # Only what a test cannot have is replaced: the port, the model on a hub, the length of the training and its GPU.
    snippet = snippet.replace(ADDRESS, server.url)
    snippet = snippet.replace("Qwen/Qwen3-0.6B", str(model))
    snippet = snippet.replace("max_steps=100", "max_steps=1, use_cpu=True, bf16=False, report_to='none'")

    output = run([sys.executable, "-c", snippet], tmp_path)

    assert output
    assert not server.live_sessions


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("ors-gym") and ADDRESS in line])
def test_a_command_for_a_server_runs_as_it_stands(command: str, server: RunningServer, tmp_path: Path):
    with serve_chat() as chat:
        chat.answers = [says("enough")]
        command = command.replace(ADDRESS, server.url).replace(ENDPOINT, chat.url)

        assert "buttons" in run(shlex.split(command), tmp_path)


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("ors-gym serve")])
def test_a_command_that_serves_says_where_and_stops_on_sigterm(command: str, tmp_path: Path):
    free_port = [*shlex.split(command), "--port", "0"]
    with subprocess.Popen(free_port, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        said = serving.stdout.readline()
        serving.terminate()

        assert said.startswith("Serving at http://127.0.0.1:")
        assert serving.wait(60) in (0, -signal.SIGTERM)


def test_the_commands_that_make_an_environment_work_one_after_another(tmp_path: Path):
    for command in (line for line in COMMANDS if line.startswith(("ors-gym new", "ors-gym gates"))):
        assert run(shlex.split(command), tmp_path)


def test_the_first_snippet_prints_what_its_comments_say(server: RunningServer, tmp_path: Path):
    prompt, found, end = run([sys.executable, "-c", SNIPPETS[0].replace(ADDRESS, server.url)], tmp_path).splitlines()

    assert prompt == "find the button ."
    assert re.fullmatch("it is (red|green|blue) .", found)
    assert end == "1.0 True"


def test_every_other_command_is_one_that_another_test_runs():
    others = [line.split("#")[0].strip() for line in COMMANDS if not line.startswith("ors-gym")]

    assert others == [
        "make demo",  # tests/docs/test_demo.py runs what it runs; CI runs make test
        "make test",
        ". .venv/bin/activate",  # .ci/readme_test.py runs all of them, in order
        "python examples/buttons.py --port 8080 &",  # tests/docs/test_demo.py
        "python examples/train_grpo.py --help",  # tests/docs/test_demo.py
        'pip install "gymnasium[box2d]"',
    ]
