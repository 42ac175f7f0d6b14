"""GRPO inside Ray Train: trainer ranks and rollout actors on the same cluster, and a rank that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ors_servers import serve
from tests.support.paths import ROOT
from tests.support.processes import wait_until
from tests.support.tiny import Buttons


def ranks_of(driver: int) -> list[int]:
    """The processes of Ray Train's workers that the driver's own cluster runs."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if b"RayTrainWorker" in command and f"ORS_TEST_DRIVER={driver}".encode() in environment:
            found.append(int(folder.name))
    return sorted(found)


@pytest.mark.timeout(1500)
def test_a_run_continues_from_its_checkpoint_when_a_rank_is_killed_and_leaves_no_session(tmp_path: Path):
    marker = os.getpid()
    paths = f"{ROOT}{os.pathsep}{ROOT / 'integrations'}"
    environment = {**os.environ, "PYTHONPATH": paths, "ORS_TEST_DRIVER": str(marker)}
    script = [sys.executable, str(ROOT / "examples" / "train_grpo_ray.py")]
    options = ["--steps", "8", "--save-steps", "2", "--storage", str(tmp_path / "runs")]
    log = tmp_path / "log"
    with serve(Buttons) as server, log.open("w") as output:
        command = [*script, "--url", server.url, *options]
        with subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=ROOT) as driver:
            wait_until(lambda: driver.poll() is not None or list(tmp_path.glob("runs/grpo/checkpoint_*")), 900)
            ranks = ranks_of(marker)
            assert len(ranks) == 2, log.read_text()[-4000:]
            os.kill(ranks[1], signal.SIGKILL)
            assert driver.wait() == 0, log.read_text()[-4000:]
        assert "Mean reward" in log.read_text()
        assert set(ranks_of(marker)).isdisjoint(ranks)
        wait_until(lambda: not server.live_sessions)


def test_one_rank_and_two_learn_the_same_from_a_batch(tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'integrations'}"}
    script = [sys.executable, str(ROOT / "examples" / "train_grpo_ray.py"), "--steps", "2"]
    logs: list[dict[str, float]] = []
    with serve(Buttons) as server:
        for ranks in ("1", "2"):
            options = ["--url", server.url, "--ranks", ranks, "--storage", str(tmp_path / ranks)]
            subprocess.run([*script, *options], env=environment, cwd=ROOT, check=True, capture_output=True)
            [state] = tmp_path.glob(f"{ranks}/grpo/checkpoint_*/checkpoint/trainer_state.json")
            first, second, *_ = json.loads(state.read_text())["log_history"]
            logs.append({name: first[name] for name in ("reward", "num_tokens", "learning_rate", "loss", "grad_norm")})
            logs[-1] |= {"after": second["loss"]}
        assert not server.live_sessions
    assert logs[0] == pytest.approx(logs[1], rel=1e-2)
