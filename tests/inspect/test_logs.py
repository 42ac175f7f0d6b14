"""Runs of ours as logs that Inspect reads, and that its viewer serves."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("inspect_ai", reason="make test-inspect has it")

from inspect_ai.log import read_eval_log

from ors_gym import RandomPolicy, ScriptedPolicy, ToolCall
from ors_gym.cli.main import main
from ors_gym.evaluation import Rules, evaluate
from ors_gym_inspect import write_inspect_logs
from tests.support.programs import running_server

RULES = Rules(max_failed=0.5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two models, 8 tasks × 2 epochs; each task 3 fails."""
    folder = tmp_path_factory.mktemp("run")
    moves = [ToolCall("look"), ToolCall("answer", {"text": "x"}), ToolCall("answer", {"text": "answer 2"})]
    with running_server("tests.support.riddle_server", 0) as (_, url):
        models = {"a/script": ScriptedPolicy(moves), "random": RandomPolicy(0)}
        options = {"env_name": "riddle", "epochs": 2, "rules": RULES, "out": folder / "run.jsonl", "retries": 0}
        evaluation = asyncio.run(evaluate(url, models, **options))
    return folder, evaluation


def test_a_log_has_every_episode_and_the_same_value_and_error_as_the_summary(run, tmp_path):
    folder, evaluation = run

    paths = write_inspect_logs(folder, tmp_path, RULES)

    logs = {log.eval.model: log for log in map(read_eval_log, map(str, paths))}
    assert set(logs) == {"a/script", "random"}
    log, result = logs["a/script"], next(each for each in evaluation.results if each.name == "a/script")
    metrics = {score.name: score.metrics for score in log.results.scores}
    assert metrics["episode_success"]["mean"].value == pytest.approx(result.success.value)
    assert metrics["episode_success"]["stderr"].value == pytest.approx(result.success.se)
    assert metrics["episode_return"]["mean"].value == pytest.approx(result.mean_return.value)
    assert metrics["episode_return"]["stderr"].value == pytest.approx(result.mean_return.se)
    assert len(log.samples) == 16
    failed = [sample for sample in log.samples if sample.error]
    assert {sample.id for sample in failed} == {"exam[3]"}
    assert "no riddle today" in failed[0].error.message
    assert not failed[0].scores
    assert log.results.completed_samples == 14
    [solved] = [sample for sample in log.samples if sample.id == "exam[2]" and sample.epoch == 1]
    assert [message.role for message in solved.messages] == ["system", "user", *["assistant", "tool"] * 3]
    assert [each.error and each.error.type for each in solved.messages if each.role == "tool"] == [
        None,
        "parsing",
        None,
    ]
    assert solved.scores["episode_return"].value == 1.25


def test_the_command_writes_logs_that_the_viewer_serves(run, tmp_path, capsys):
    folder, _ = run
    assert main(["inspect", str(folder), "--out", str(tmp_path)]) == 0
    [name] = [path.name for path in tmp_path.iterdir() if "a-script" in path.name]
    assert name in capsys.readouterr().out
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    program = str(Path(sys.executable).parent / "inspect")
    command = [program, "view", "start", "--log-dir", str(tmp_path), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as viewer:
        try:
            for line in viewer.stdout:
                if str(port) in line:
                    break
            listed = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/api/logs", timeout=60))
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60).read()
        finally:
            viewer.terminate()
    assert any(each["name"].endswith(name) for each in listed["files"])
    assert b"<html" in page
