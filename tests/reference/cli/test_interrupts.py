"""Ctrl-C on the command line."""

import signal
import subprocess
import sys

import pytest

from ors_gym.reporting.records import read_trajectories


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
@pytest.mark.parametrize(
    ("command", "shown"), [(["play"], "count 0"), (["rollout", "--episodes", "100000", "--seed", "1"], "task 1/100000")]
)
def test_ctrl_c_closes_the_sessions(counter_server, command, shown):
    script = "import sys; from ors_gym.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-u", "-c", script, command[0], counter_server.url, *command[1:]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as player:
        player.stdin.write("look\n")
        player.stdin.flush()
        while not player.stdout.readline().startswith(shown):
            assert player.poll() is None
        assert counter_server.live_sessions
        player.send_signal(signal.SIGINT)
        assert player.wait(60) == 130
    assert counter_server.live_sessions == {}


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_ctrl_c_leaves_the_report_and_the_file_with_what_there_is(counter_server, tmp_path):
    page, path = tmp_path / "report.html", tmp_path / "run.jsonl"
    script = "import sys; from ors_gym.cli.main import main; sys.exit(main(sys.argv[1:]))"
    options = ["--episodes", "100000", "--seed", "1", "--report", page, "--out", path]
    command = [sys.executable, "-u", "-c", script, "rollout", counter_server.url, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as player:
        while not player.stdout.readline().startswith("task 1/100000"):
            assert player.poll() is None
        player.send_signal(signal.SIGINT)
        rest = player.stdout.read()
        assert player.wait(60) == 130

    assert "stop reasons" in rest
    assert f"The report is at {page.as_uri()}" in rest
    assert "interrupted" in page.read_text()
    assert len(list(read_trajectories(path))) >= 1
    assert counter_server.live_sessions == {}
