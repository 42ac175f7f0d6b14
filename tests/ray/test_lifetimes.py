"""Ray kills an actor's children with it: the sessions that the actor held are deleted all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from ors_gym import ScriptedPolicy, TaskRef, ToolCall
from ors_gym_ray import RolloutPool
from tests.support.ors_servers import RunningServer
from tests.support.processes import wait_until
from tests.support.ray_clusters import connected


@pytest.fixture(scope="module", autouse=True)
def driver(ray_cluster: Cluster) -> Iterator[None]:
    """This process is a driver of the cluster."""
    with connected(ray_cluster):
        yield


class HoldsAnEnv:
    """An actor in the middle of an episode of ``gym.make``."""

    def begin(self, url: str) -> None:
        import gymnasium as gym

        self.env = gym.make("ors_gym:ors_gym/ORS-v0", url=url, env_name="counter")
        self.env.reset(seed=0)


class HoldsAPool:
    """An actor whose pool's actors are in the middle of episodes: their policy never answers."""

    def begin(self, url: str) -> None:
        import asyncio
        import threading

        self.reached = threading.Semaphore(0)
        holder = self

        class Waits(ScriptedPolicy):
            async def act(self, turn: Any) -> Any:
                holder.reached.release()
                await asyncio.Event().wait()

        self.pool = RolloutPool(url, num_actors=1, policy=Waits([ToolCall("look")]), actor_options={"num_cpus": 0})
        threading.Thread(
            target=lambda: asyncio.run(self.pool.run_episode(TaskRef("counter", "train", 0))), daemon=True
        ).start()
        self.reached.acquire()


@pytest.mark.parametrize("holder", [HoldsAnEnv, HoldsAPool])
def test_the_sessions_of_an_actor_that_ray_kills_are_deleted(counter_server: RunningServer, holder: type):
    actor: Any = ray.remote(holder).options(num_cpus=1).remote()
    ray.get(actor.begin.remote(counter_server.url))
    assert len(counter_server.live_sessions) == 1

    ray.kill(actor)

    wait_until(lambda: not counter_server.live_sessions)
