"""Groups on four Ray actors of two nodes, while actors, processes, nodes, the server and the driver die.

``python -m tests.faults ray`` prints the table. The reference server runs in its own process, which can be killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, TypeAlias

import httpx

import tests.support.ors_servers  # noqa: F401  (first: it silences the SDK's log, which is set up on import)

# isort: split
import ray
from openreward.environments import ToolOutput, tool
from ray.cluster_utils import Cluster

from ors_gym import FailurePolicy, ScriptedPolicy, TaskRef, ToolCall
from ors_gym_ray import RolloutPool
from tests.faults.groups import Plan, Tally, cut, full
from tests.support.environments import Amount, Counter
from tests.support.faulty_proxy import FaultyProxy
from tests.support.ors_servers import Server, free_port
from tests.support.processes import wait_until
from tests.support.ray_clusters import add_node, connected, kill_process, start_cluster

GROUP_SIZE, NUM_ACTORS, PLACES, TARGET = 8, 4, 24, 5
DRIVER = """
import asyncio, sys
from ors_gym import ScriptedPolicy, TaskRef, ToolCall
from ors_gym_ray import RolloutPool

async def main():
    policy = ScriptedPolicy([ToolCall("add", {"seconds": 60})])
    with RolloutPool(sys.argv[1], policy=policy, address=sys.argv[2]) as pool:
        async for group in pool.run_groups([TaskRef("slow", "train", 4)] * 8, 8):
            pass

asyncio.run(main())
"""


class Paced(Amount):
    """How much to add, and how long that takes."""

    seconds: float = 0.1


class Slow(Counter):
    """Counts, and takes its time."""

    @tool
    async def add(self, params: Paced) -> ToolOutput:
        """Add to the count."""
        await asyncio.sleep(params.seconds)
        return Counter.add(self, params)


class ServerProcess:
    """The reference server in a process that can be killed; it also says how many sessions it has."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start it, again on the same port."""
        self.process = subprocess.Popen([sys.executable, "-m", "tests.faults.ray_campaign", str(self.port)])
        wait_until(self._answers, 60)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """Kill it without a word."""
        self.process.kill()
        self.process.wait()

    @property
    def sessions(self) -> int:
        """How many it has now."""
        return int(httpx.get(f"{self.url}/sessions").text)

    def sessions_left(self) -> int:
        """How many stay, once the deletions that go on in the background have had their time."""
        deadline = time.monotonic() + 40
        while self.sessions and time.monotonic() < deadline:
            time.sleep(0.2)
        return self.sessions


def serve(port: int) -> None:
    """Be that process."""
    import uvicorn

    server = Server([Slow])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") != "/sessions":
            await server.app(scope, receive, send)
            return
        count = sum(environment is not None for environment in server._active_envs.values())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(count).encode()})

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="critical", access_log=False)


Strike: TypeAlias = Callable[[Cluster, ServerProcess, RolloutPool], None]


def _busiest(pool: RolloutPool) -> Any:
    return max((worker for worker in pool._workers if worker.alive), key=lambda worker: worker.places_taken)


def _lose_a_node(cluster: Cluster, server: ServerProcess, pool: RolloutPool) -> None:
    node = next(iter(cluster.worker_nodes))
    cluster.remove_node(node, allow_graceful=False)
    for worker in pool._workers:
        if worker.home is not None and worker.home.node_id == node.node_id:
            kill_process(worker)
    add_node(cluster)


def _restart(cluster: Cluster, server: ServerProcess, pool: RolloutPool) -> None:
    server.kill()
    server.start()


STRIKES: dict[str, tuple[Strike | None, Plan | None]] = {
    "nothing": (None, None),
    "3 actors killed": (lambda cluster, server, pool: ray.kill(_busiest(pool).actor), None),
    "3 worker processes killed": (lambda cluster, server, pool: kill_process(_busiest(pool)), None),
    "3 nodes lost": (_lose_a_node, None),
    "server killed and restarted, 3x": (_restart, None),
    "1 request in 20 cut": (None, cut),
    "the server is full": (None, full),
}


async def _play(
    tally: Tally, cluster: Cluster, server: ServerProcess, strike: Strike | None, plan: Plan | None
) -> None:
    """Play the groups, and strike three times on the way."""
    policy, rng = ScriptedPolicy([ToolCall("add", {"amount": 1})] * TARGET), random.Random(0)
    tasks = [TaskRef("slow", task={"target": TARGET, "number": number}) for number in range(tally.asked)]
    strikes = [tally.asked * part // 4 for part in (1, 2, 3)] if strike is not None else []
    options = {"max_actor_restarts": 100, "start_seconds": 60.0}
    async with AsyncExitStack() as stack:
        url = server.url
        if plan is not None:
            proxy = FaultyProxy(server.url, lambda request: plan(request, rng))
            url = (await stack.enter_async_context(proxy)).url
        pool = RolloutPool(url, num_actors=NUM_ACTORS, episodes_per_actor=PLACES, policy=policy, **options)
        with pool:
            await pool.ready()
            async for group in pool.run_groups(tasks, GROUP_SIZE, failures=FailurePolicy(retries=5)):
                tally.groups.append(group)
                if strikes and len(tally.groups) >= strikes[0]:
                    strikes.pop(0)
                    assert strike is not None
                    strike(cluster, server, pool)


def _drivers(server: ServerProcess, cluster: Cluster) -> Iterator[tuple[str, int, float]]:
    """Kill drivers in the middle of 64 episodes: how, how many sessions stay, after how many seconds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ways = [
        ("driver killed", signal.SIGKILL, cluster.address),
        ("driver killed, with its own Ray", signal.SIGKILL, "local"),
        ("driver interrupted (Ctrl-C)", signal.SIGINT, cluster.address),
    ]
    for name, sent, address in ways:
        command = [sys.executable, "-c", DRIVER, server.url, address]
        with subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL) as process:
            wait_until(lambda: server.sessions == 64, 60)
            os.killpg(process.pid, sent)
            began = time.monotonic()
            process.wait(60)
        yield name, server.sessions_left(), time.monotonic() - began


@contextmanager
def _cluster_of_two() -> Iterator[Cluster]:
    with start_cluster() as cluster:
        add_node(cluster)
        with connected(cluster):
            yield cluster


def campaign(num_groups: int) -> Iterator[tuple[str, Tally]]:
    """What came back under each fault; of drivers that died, only what is left on the server."""
    server = ServerProcess()
    try:
        with _cluster_of_two() as cluster:
            for name, (strike, plan) in STRIKES.items():
                tally = Tally(num_groups, TARGET)
                asyncio.run(_play(tally, cluster, server, strike, plan))
                tally.sessions_left = server.sessions_left()
                yield name, tally
            for name, left, seconds in _drivers(server, cluster):
                yield f"{name}, {seconds:.1f} s", Tally(0, TARGET, sessions_left=left)
    finally:
        server.kill()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
