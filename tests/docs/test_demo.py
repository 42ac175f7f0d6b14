"""The demo, as `make demo` runs it but shorter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.ors_servers import serve
from tests.support.paths import ROOT
from tests.support.tiny import Buttons, make_model, make_tokenizer

SCRIPT = str(ROOT / "examples" / "train_grpo.py")


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "OPENREWARD_LOG_LEVEL"}
    command = [sys.executable, SCRIPT, "--output", str(folder), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)


def test_its_help_teaches():
    shown = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=True).stdout

    assert "--no-ray" in shown
    assert "--model Qwen/Qwen3-0.6B --url http://localhost:8080" in shown


def test_it_trains_on_ray_and_leaves_a_page(tmp_path: Path):
    small = ["--steps", "3", "--prompts-per-step", "4", "--group-size", "4", "--baseline-episodes", "8"]
    done = run(*small, folder=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "FutureWarning" not in done.stderr
    assert "step 1/3" in done.stdout
    assert "failures: none" in done.stdout
    page = (tmp_path / "report.html").read_text()
    assert (tmp_path / "report.html").resolve().as_uri() in done.stdout
    assert "find the button ." in page


def test_it_trains_a_model_of_ones_own_in_process_on_a_server_of_ones_own(tmp_path: Path):
    tokenizer = make_tokenizer()
    make_model(tokenizer, seed=0).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    small = ["--steps", "2", "--prompts-per-step", "2", "--group-size", "2", "--max-completion-length", "32"]

    with serve(Buttons) as server:
        model = ["--model", str(tmp_path / "model"), "--url", server.url, "--env", "buttons", "--no-ray"]
        done = run(*model, *small, "--baseline-episodes", "4", folder=tmp_path)
        left = server.live_sessions

    assert done.returncode == 0, done.stderr
    assert "step 2/2" in done.stdout
    assert not left
    assert (tmp_path / "checkpoint-2").exists()


def test_an_unknown_environment_is_an_error_that_names_what_there_is(tmp_path: Path):
    done = run("--env", "butons", "--no-ray", folder=tmp_path)

    assert done.returncode != 0
    assert "buttons" in done.stderr.splitlines()[-1]


def test_a_tool_call_survives_the_tiny_tokenizer():
    tokenizer = make_tokenizer()
    call = '<tool_call>\n{"name": "press", "arguments": {"color": "red"}}\n</tool_call><|im_end|>'

    ids = tokenizer(call, add_special_tokens=False)["input_ids"]

    assert tokenizer.decode(ids) == call
    assert len(ids) == 6
