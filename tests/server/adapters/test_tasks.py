"""Whether a task is one problem: what the probe says of environments whose tasks are, and of those whose are not."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from ors_gym import ORSClient
from ors_gym.testing import probe_tasks
from ors_gym_server import create_app
from ors_gym_server.run.rehearsal import RehearsalError, rehearse
from tests.support.ors_servers import serve_app
from tests.support.task_environments import Dice, Fatal, Forgetful, Global, Loaded, Ordered


def test_the_probe_says_of_each_environment_what_is_wrong_with_its_tasks(run):
    async def probed(url, cls, **options):
        async with ORSClient(url) as client:
            report = await probe_tasks(client, cls.__name__.lower(), "train", **options)
        return {each.name: each for each in report.findings}

    async def conversation(url):
        return await asyncio.gather(
            probed(url, Dice),
            probed(url, Forgetful),
            probed(url, Loaded),
            probed(url, Dice, num_moves=0),
        )

    with serve_app(create_app([Dice, Forgetful, Loaded])) as running:
        sound, forgetful, loaded, looked_at = run(conversation(running.url))
    assert {name: each.holds for name, each in sound.items()} == dict.fromkeys(
        ("repeatable", "different", "independent"), True
    )
    assert str(sound["different"]) == "8 of the first 8 tasks differ"
    assert list(forgetful) == ["repeatable"]
    assert "a different episode (they diverge after 1 moves)" in forgetful["repeatable"].message
    assert "from the task's seed" in forgetful["repeatable"].remedy
    assert loaded["different"].holds is False
    assert not loaded["different"].is_fault
    assert "identical: training and test tasks are the same" in loaded["different"].message
    assert looked_at["different"].holds is None  # the prompts are the same, and nothing was played


@pytest.fixture(scope="module")
def rehearsed():
    """What a rehearsal found, by environment and property."""
    reports = rehearse([Dice, Global, Ordered])
    return {report.env_name: {each.name: each for each in report.findings} for report in reports}


def test_a_rehearsal_finds_what_depends_on_the_process(rehearsed):
    assert {name: each.holds for name, each in rehearsed["dice"].items()} == dict.fromkeys(
        ("repeatable", "portable", "independent", "different"), True
    )
    assert rehearsed["global"]["independent"].holds is False
    assert "random state of its process" in rehearsed["global"]["independent"].message
    assert "--isolated 8" in rehearsed["global"]["independent"].remedy
    assert rehearsed["ordered"]["portable"].holds is False
    assert "in another process" in rehearsed["ordered"]["portable"].message


def test_an_environment_that_ends_its_process_is_reported_before_it_is_served():
    with pytest.raises(RehearsalError, match=r"\(Aborted\): .*X11: The DISPLAY.*set MUJOCO_GL=egl for MuJoCo"):
        rehearse([Fatal])


def test_the_processes_of_a_rehearsal_start_without_a_client():
    code = "import sys, ors_gym_server.run.stage; print({'httpx', 'rich', 'ors_gym.client'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "set()\n"
