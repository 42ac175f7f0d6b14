"""The images of a scaffolded folder, built and started here as their files say, asked at the port that they name."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ors_gym_server.scaffold import scaffold
from tests.support.images import Image, ImageBuilder, missing

LACKING = missing()

pytestmark = [
    pytest.mark.skipif(bool(LACKING), reason=f"images are not built here: {LACKING}"),
]
FILES = {"Dockerfile": 8080, "Dockerfile.spaces": 7860}


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory, ors_gym_wheel: Path) -> Iterator[ImageBuilder]:
    """The folder of a game, with the package that no index has yet in ``wheels/``."""
    scratch = tmp_path_factory.mktemp("images")
    folder = scratch / "code-breaker"
    scaffold(folder, "game")
    (folder / "wheels").mkdir()
    shutil.copy(ors_gym_wheel, folder / "wheels")
    with ImageBuilder(folder, scratch) as builder:
        yield builder


@pytest.fixture(scope="module", params=FILES)
def image(builder: ImageBuilder, request: pytest.FixtureRequest) -> tuple[str, Image]:
    try:
        return request.param, builder.build(request.param)
    except subprocess.CalledProcessError as error:
        raise AssertionError(f"{error.output}\n{error.stderr}") from None


def inside(process: subprocess.Popen[str], *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of this machine's in the container's network."""
    words = ["nsenter", "--net", "--target", str(process.pid), *command]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_the_image_is_built_started_as_its_user_on_its_port_and_played(image: tuple[str, Image], builder: ImageBuilder):
    name, made = image
    url = f"http://127.0.0.1:{FILES[name]}"
    assert (made.port, made.user) == (FILES[name], "user")
    with builder.running(made) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"Serving at http://0.0.0.0:{made.port}\n"
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert re.search(r"^Uid:\t1000\t1000\t1000\t1000$", status, re.MULTILINE)
        health = inside(process, "curl", "-sS", f"{url}/health", cwd=builder.context)
        assert (health.stdout, health.stderr) == ('{"status":"ok"}', "")
        played = inside(process, sys.executable, "rollout.py", url, cwd=builder.context)
        assert played.returncode == 0, played.stdout + played.stderr
        assert played.stdout.strip().endswith("finished, return 1.0")
    assert process.returncode == -signal.SIGTERM  # by itself, within its time: not killed


def test_a_container_that_is_given_a_key_asks_for_it(builder: ImageBuilder):
    made = builder.build("Dockerfile.spaces")
    with builder.running(made, {"ORS_API_KEY": "a-secret"}) as process:
        assert process.stdout is not None
        process.stdout.readline()
        curl = [
            "curl",
            "-sS",
            "-o",
            os.devnull,
            "-w",
            "%{http_code}",
            f"http://127.0.0.1:{made.port}/list_environments",
        ]
        answers = [
            inside(process, *curl, *key, cwd=builder.context).stdout for key in ([], ["-H", "X-API-Key: a-secret"])
        ]
    assert answers == ["401", "200"]


def test_what_the_two_files_have_in_common_is_run_once(builder: ImageBuilder):
    for name in FILES:
        builder.build(name)
    assert len(builder.steps_run) == 5, builder.steps_run
