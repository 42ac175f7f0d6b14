"""Ray kills an actor's children with it: the sessions that the actor held are deleted all the same.

So are those of a driver that leaves its cluster while its pool plays.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from ors_gym import ScriptedPolicy, TaskRef, ToolCall
from ors_gym_ray import RolloutPool
from tests.support.ors_servers import RunningServer
from tests.support.processes import wait_until

pytestmark = pytest.mark.usefixtures("driver")


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


def kill_its_process(actor: Any) -> None:
    os.kill(ray.get(actor.__ray_call__.remote(lambda actor: os.getpid())), signal.SIGKILL)


@pytest.mark.parametrize(
    ("holder", "kill"), [(HoldsAnEnv, ray.kill), (HoldsAPool, ray.kill), (HoldsAPool, kill_its_process)]
)
def test_the_sessions_of_an_actor_that_is_killed_are_deleted(
    counter_server: RunningServer, holder: type, kill: Callable[[Any], None]
):
    actor: Any = ray.remote(holder).options(num_cpus=1).remote()
    ray.get(actor.begin.remote(counter_server.url))
    assert len(counter_server.live_sessions) == 1

    kill(actor)

    wait_until(lambda: not counter_server.live_sessions)


LEAVES = """
import asyncio, sys
import ray
from ors_gym import Reply
from ors_gym_ray import RolloutPool

class Leaves:
    asked = 0

    async def act(self, turn):
        self.asked += 1
        if self.asked == 2:
            ray.shutdown()
        await asyncio.Event().wait()

async def main():
    options = {"num_actors": 1, "actor_options": {"num_cpus": 0}, "address": sys.argv[2]}
    pool = RolloutPool(sys.argv[1], env_name="counter", policy=Leaves(), **options)
    try:
        [group async for group in pool.run_groups([2], 2)]
    except RuntimeError as error:
        print(error, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    pool.close()
    print(ray.is_initialized(), flush=True)

asyncio.run(main())
"""


def test_a_driver_that_leaves_its_cluster_ends_its_episodes_with_the_reason_and_starts_no_other_ray(
    ray_cluster: Cluster, counter_server: RunningServer
):
    command = [sys.executable, "-c", LEAVES, counter_server.url, ray_cluster.address]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as driver:
        assert driver.stdout is not None
        assert "ray.shutdown() ended the actors of the RolloutPool" in driver.stdout.readline()
        wait_until(lambda: not counter_server.live_sessions)  # while the driver lives
        told, _ = driver.communicate("")
    assert told == "False\n"
