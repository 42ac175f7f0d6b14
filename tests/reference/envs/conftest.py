"""Environments of a real server, as ``gym.make`` makes them."""

from __future__ import annotations

import gymnasium as gym
import pytest

from tests.support.gym_environments import Faulty, Kitchen, Quiz, Walk
from tests.support.ors_servers import serve


@pytest.fixture(scope="module")
def server():
    with serve(Walk, Quiz, Faulty, Kitchen) as running:
        yield running


@pytest.fixture
def make(server):
    made = []

    def make(env_name="walk", **options):
        made.append(gym.make("ors_gym/ORS-v0", url=server.url, env_name=env_name, **options))
        return made[-1]

    yield make
    for env in made:
        env.close()
    assert server.live_sessions == {}, "every session that was opened is closed"
