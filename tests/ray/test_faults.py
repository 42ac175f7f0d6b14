"""Actors, processes, nodes and drivers that die in the middle of groups, on a real cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from ors_gym import FailurePolicy, Reply, ScriptedPolicy, StopReason, TaskRef, ToolCall, Turn, run_group
from ors_gym_ray import RolloutPool
from ors_gym_ray.rollouts import places
from tests.support.environments import Counter
from tests.support.ors_servers import RunningServer, Server, serve_app
from tests.support.processes import wait_until
from tests.support.ray_clusters import add_node, kill_process

pytestmark = pytest.mark.usefixtures("driver")


ADD = ToolCall("add", {"amount": 1})
THREE = TaskRef("counter", "train", 2)
AT_ONCE = FailurePolicy(retries=3, retry_delay_seconds=0)
IN_A_PLACE = {"resources": {"place": 1}}


class PausesAtTheSecondTurn:
    """Counts to the task's target; once ``episodes`` are in the middle, ``strike`` happens, and then all go on."""

    def __init__(self, episodes: int, strike: Callable[[], Any]) -> None:
        self.missing = episodes
        self.strike = strike
        self.go_on: asyncio.Future[None] | None = None

    async def act(self, turn: Turn) -> Reply:
        if self.go_on is None:
            self.go_on = asyncio.get_running_loop().create_future()
        if turn.number == 1 and not self.go_on.done():
            self.missing -= 1
            if self.missing == 0:
                await asyncio.to_thread(self.strike)
                self.go_on.set_result(None)
            await self.go_on
        return Reply(tool_calls=(ADD,))


def assert_complete(group: Any, size: int) -> None:
    assert not group.dropped
    assert [member.stop_reason for member in group.members] == [StopReason.FINISHED] * size
    assert [member.rewards for member in group.members] == [(None, None, 1.0)] * size
    assert len({member.episode_id for member in group.members}) == size


def test_a_killed_worker_process_costs_a_retry_and_leaves_no_session(counter_server: RunningServer, run: Callable):
    policy = PausesAtTheSecondTurn(6, lambda: kill_process(pool._workers[0]))

    async def conversation() -> Any:
        await pool.ready()
        return await run_group(pool, THREE, 6, failures=AT_ONCE)

    with RolloutPool(counter_server.url, policy=policy) as pool:
        group = run(conversation())

    assert_complete(group, 6)
    assert [failure.kind for failure in group.failures] == ["actor_died"] * 3
    wait_until(lambda: not counter_server.live_sessions)


def test_without_retries_the_group_comes_back_and_says_what_it_lost(counter_server: RunningServer, run: Callable):
    policy = PausesAtTheSecondTurn(4, lambda: kill_process(pool._workers[0]))
    failures = FailurePolicy(retries=0, min_valid_members=3)

    async def conversation() -> Any:
        await pool.ready()
        return await run_group(pool, THREE, 4, failures=failures)

    with RolloutPool(counter_server.url, policy=policy) as pool:
        group = run(conversation())

    assert group.dropped
    assert sorted(member.stop_reason for member in group.members) == ["failed", "failed", "finished", "finished"]
    assert all(member.failure.kind == "actor_died" for member in group.members if member.failed)
    wait_until(lambda: not counter_server.live_sessions)


def test_of_many_groups_none_is_lost_or_doubled_while_processes_are_killed(
    counter_server: RunningServer, run: Callable
):
    class Kills:
        """Kills the process that plays the episode of which it is asked, three times in all."""

        asked = 0

        async def act(self, turn: Turn) -> Reply:
            self.asked += 1
            if self.asked in (50, 150, 250):
                kill_process(next(each for each in pool._workers if turn.episode_id in each._episodes))
            return Reply(tool_calls=(ADD,))

    async def conversation() -> list:
        tasks = list(range(5)) * 8
        return [group async for group in pool.run_groups(tasks, 4, failures=AT_ONCE, max_concurrent_groups=8)]

    with RolloutPool(counter_server.url, env_name="counter", policy=Kills()) as pool:
        groups = run(conversation())

    assert sorted(group.task.index for group in groups) == sorted(list(range(5)) * 8)
    members = [member for group in groups for member in group.members]
    assert [member.stop_reason for member in members] == [StopReason.FINISHED] * 160
    assert len({member.episode_id for member in members}) == 160
    assert {failure.kind for group in groups for failure in group.failures} == {"actor_died"}
    wait_until(lambda: not counter_server.live_sessions)


def test_when_a_node_is_lost_its_episodes_go_to_the_living_and_its_actors_wait_for_another_node(
    ray_cluster: Cluster, counter_server: RunningServer, run: Callable
):
    doomed = add_node(ray_cluster)
    places: dict[str, int] = {}

    def pull_the_plug() -> None:
        ray_cluster.remove_node(doomed, allow_graceful=False)
        for worker in pool._workers:  # they would outlive their node for a second
            if worker.home.node_id == doomed.node_id:
                kill_process(worker)

    async def conversation() -> Any:
        await pool.ready()
        nodes = [worker.home.node_id for worker in pool._workers]
        places.update({node: nodes.count(node) for node in nodes})
        group = await run_group(pool, THREE, 8, failures=AT_ONCE)
        assert pool.num_living_actors == 2
        another = add_node(ray_cluster)
        try:
            await pool.ready()
        finally:
            ray_cluster.remove_node(another)
        return group

    policy = PausesAtTheSecondTurn(8, pull_the_plug)
    with RolloutPool(counter_server.url, num_actors=4, actor_options=IN_A_PLACE, policy=policy) as pool:
        group = run(conversation())

    assert sorted(places.values()) == [2, 2]
    assert_complete(group, 8)
    assert [failure.kind for failure in group.failures] == ["actor_died"] * 4
    wait_until(lambda: not counter_server.live_sessions)


def test_actors_without_resources_are_an_error_that_says_what_is_missing(
    counter_server: RunningServer, run: Callable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(places, "NOTICE_SECONDS", 0.0)
    options = {"resources": {"tpu": 4}}
    with RolloutPool(
        counter_server.url, actor_options=options, policy=ScriptedPolicy([ADD]), start_seconds=0.5
    ) as pool:
        with pytest.raises(TimeoutError, match=r"within 0\.5 s: 2 wait for .*'tpu': 4.* the cluster has .*'place'"):
            run(run_group(pool, THREE, 2))

    assert "no actor of the RolloutPool lives yet: 2 wait for" in caplog.text


class HoldsCreation:
    """An ASGI application that lets a ``/create`` which has arrived wait at its door."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.arrived = threading.Event()
        self.released = threading.Event()
        self.answered: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") == "/create":
            body = await receive()

            async def receive_again() -> Any:
                return body

            self.arrived.set()
            await asyncio.to_thread(self.released.wait)
            receive = receive_again
        await self.app(scope, receive, send)
        self.answered.append(scope.get("path"))


def test_a_session_that_a_dead_actor_was_still_opening_is_deleted_once_it_exists():
    server = Server([Counter])
    door = HoldsCreation(server.app)

    async def conversation(url: str) -> None:
        with RolloutPool(url, num_actors=1, max_actor_restarts=0, policy=ScriptedPolicy([ADD])) as pool:
            playing = asyncio.create_task(pool.run_episode(THREE))
            await asyncio.to_thread(door.arrived.wait)
            kill_process(pool._workers[0])
            assert (await playing).failure.kind == "actor_died"
            await asyncio.to_thread(wait_until, lambda: "/ping" in door.answered)  # looked for in vain
            assert "/create" not in door.answered
            door.released.set()
            await asyncio.to_thread(wait_until, lambda: "/delete" in door.answered)

    with serve_app(door, server=server) as running:
        asyncio.run(conversation(running.url))
        assert "/create" in door.answered
        assert not server._active_envs


DRIVER = """
import asyncio, sys
from ors_gym import Reply, TaskRef, ToolCall
from ors_gym_ray import RolloutPool

url, address, how_to_end = sys.argv[1:]

class Waits:
    waiting = 0

    async def act(self, turn):
        self.waiting += 1
        if self.waiting == 4:
            print("in the middle", flush=True)
        await asyncio.Event().wait()

async def main():
    pool = RolloutPool(url, env_name="counter", policy=Waits(), address=address)
    if how_to_end == "with close":
        with pool:
            async for group in pool.run_groups([2, 3], 2):
                pass
    else:
        async for group in pool.run_groups([2, 3], 2):
            pass

asyncio.run(main())
"""


@pytest.mark.parametrize(("sent", "how_to_end"), [(signal.SIGKILL, "killed"), (signal.SIGINT, "with close")])
def test_a_driver_that_dies_leaves_no_session(
    ray_cluster: Cluster, counter_server: RunningServer, sent: signal.Signals, how_to_end: str
):
    command = [sys.executable, "-c", DRIVER, counter_server.url, ray_cluster.address, how_to_end]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in the middle\n"
        assert len(counter_server.live_sessions) == 4
        os.killpg(process.pid, sent)  # as a terminal does
        process.wait()

    wait_until(lambda: not counter_server.live_sessions)


def test_the_actors_of_a_dead_driver_are_gone(ray_cluster: Cluster):
    """No actor plays on: the cluster's processors are all free again after the tests above."""
    wait_until(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])
