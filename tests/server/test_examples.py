"""The examples of environments: served, and solved by the policy that each comes with."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys

import pytest

from ors_gym import EpisodeRunner, ORSClient, RolloutLimits, load_tasks, run_groups, trajectory_return
from ors_gym.http import ASGITransport
from ors_gym_server import create_app
from tests.support.paths import ROOT

EXAMPLES = ["arithmetic", "frozen_lake", "openenv_line", "sales", "word_guess"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_served_and_solved_by_its_own_policy(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    example = importlib.import_module(name)
    served = re.findall(rf"ors-gym serve {name}:(\w+)", example.__doc__)

    async def play():
        app = create_app([getattr(example, served[0])])
        async with ORSClient("http://app", transport=ASGITransport(app)) as client:
            (env_name,) = await client.list_environments()
            assert f"--env {env_name} " in example.__doc__
            tasks = await load_tasks(client, env_name, "test", limit=3)
            runner = EpisodeRunner(client, example.Solver(), limits=RolloutLimits(max_turns=20))
            return [member async for group in run_groups(runner, tasks, 1) for member in group.members]

    episodes = asyncio.run(asyncio.wait_for(play(), 100))

    sys.modules.pop(name)
    if name == "sales" and all("IsolationError" in str(episode.failure) for episode in episodes):
        pytest.skip("no sandbox can be had here")
    assert [trajectory_return(episode) for episode in episodes] == [1.0] * 3, episodes[0]
