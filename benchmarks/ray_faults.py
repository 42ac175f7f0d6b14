"""Groups on Ray actors under infrastructure failures: how many were asked for, and what came back.

    PYTHONPATH=. python benchmarks/ray_faults.py [--groups 40]

Groups of 8 episodes of 5 calls (0.1 s each) on four actors of a cluster of two nodes, against the reference server in
its own process. Each row breaks one thing three times while the groups run. ``complete``: all 8 members ended and
every tool ran once. ``doubled``: groups or episodes that came back twice. ``left``: sessions on the server in the end.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import ray
from lab import CALLS, Lab
from ray.cluster_utils import Cluster

from ors_gym import FailurePolicy, ScriptedPolicy, TaskRef, ToolCall, TrajectoryGroup
from ors_gym_ray import RolloutPool
from tests.support.faulty_proxy import Fault, FaultyProxy, ProxiedRequest, http_answer
from tests.support.ors_servers import free_port
from tests.support.processes import wait_until
from tests.support.ray_clusters import add_node, connected, kill_process, start_cluster

GROUP_SIZE, NUM_ACTORS, PLACES, CAPACITY = 8, 4, 24, 24
POLICY = ScriptedPolicy([ToolCall("work", {"seconds": 0.1})] * CALLS)
FAILURES = FailurePolicy(retries=5)
DRIVER = """
import asyncio, sys
from ors_gym import ScriptedPolicy, TaskRef, ToolCall
from ors_gym_ray import RolloutPool

async def main():
    policy = ScriptedPolicy([ToolCall("work", {"seconds": 60})])
    with RolloutPool(sys.argv[1], policy=policy, address=sys.argv[2]) as pool:
        async for group in pool.run_groups([TaskRef("lab", "train", 0)] * 8, 8):
            pass

asyncio.run(main())
"""


class LabServer:
    """The reference server in a process that can be killed; it also says how many sessions it has."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start it, again on the same port."""
        self.process = subprocess.Popen([sys.executable, __file__, "--serve", str(self.port)])
        wait_until(self.answers, 60)

    def answers(self) -> bool:
        """Whether it is there."""
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


def serve(port: int) -> None:
    """Be that process."""
    import uvicorn
    from openreward.environments import Server

    server = Server([Lab])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") != "/sessions":
            await server.app(scope, receive, send)
            return
        count = sum(environment is not None for environment in server._active_envs.values())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(count).encode()})

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="critical", access_log=False)


class CutConnections:
    """Breaks one request in twenty."""

    def __init__(self) -> None:
        self.rng = random.Random(0)

    def __call__(self, request: ProxiedRequest) -> Fault | None:
        """What to do to a request."""
        if self.rng.random() > 0.05:
            return None
        choices = [Fault(refuse=True, reset=True), Fault(drop_answer=True), Fault(cut_at=self.rng.randrange(1, 200))]
        if request.path.endswith("/call"):
            choices.append(Fault(cut_after=b"event: task_id", reset=True))
        return self.rng.choice(choices)


class Full:
    """Answers 429 while the server has as many sessions as it can hold."""

    def __init__(self) -> None:
        self.sessions: set[bytes] = set()
        self.refused = 0

    def __call__(self, request: ProxiedRequest) -> Fault | None:
        """What to do to a request."""
        sid = request.head.lower().partition(b"x-session-id: ")[2].partition(b"\r\n")[0]
        if request.path == "/create":
            if len(self.sessions) >= CAPACITY:
                self.refused += 1
                return Fault(answer=http_answer("429 Too Many Requests", Retry_After="1"))
            self.sessions.add(sid)
        elif request.path == "/delete":
            self.sessions.discard(sid)
        return None


class Row:
    """One line of the table."""

    def __init__(self, name: str, asked: int) -> None:
        self.name = name
        self.asked = asked
        self.groups: list[TrajectoryGroup] = []
        self.left = 0
        self.seconds = 0.0

    def __str__(self) -> str:
        members = [member for group in self.groups for member in group.members]
        complete = sum(
            all(member.rewards == (1.0,) * CALLS for member in group.members) and not group.dropped
            for group in self.groups
        )
        dropped = sum(group.dropped for group in self.groups)
        numbers = {group.task.task["number"] for group in self.groups}  # type: ignore[index]
        doubled = len(self.groups) - len(numbers) + len(members) - len({member.episode_id for member in members})
        kinds = collections.Counter(failure.kind for group in self.groups for failure in group.failures)
        retried = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()) or "none"
        counts = f"{self.asked:>6}{complete:>10}{dropped:>9}{doubled:>9}{self.left:>6}{self.seconds:>7.0f}"
        return f"{self.name:<32}{counts}  {retried}"


async def run_row(row: Row, server: LabServer, url: str, strike: Callable[[RolloutPool], None] | None) -> None:
    """Run the groups and strike three times on the way."""
    tasks = [TaskRef("lab", task={"setup_seconds": 0.0, "number": number}) for number in range(row.asked)]
    strikes = [row.asked * part // 4 for part in (1, 2, 3)] if strike is not None else []
    options = {"max_actor_restarts": 100, "start_seconds": 60.0}
    began = time.monotonic()
    with RolloutPool(url, num_actors=NUM_ACTORS, episodes_per_actor=PLACES, policy=POLICY, **options) as pool:
        await pool.ready()
        async for group in pool.run_groups(tasks, GROUP_SIZE, failures=FAILURES):
            row.groups.append(group)
            if strikes and len(row.groups) >= strikes[0]:
                strikes.pop(0)
                assert strike is not None
                strike(pool)
    row.seconds = time.monotonic() - began
    with_deadline(server)
    row.left = server.sessions


def with_deadline(server: LabServer) -> None:
    """Give the deletions that go on in the background their time."""
    deadline = time.monotonic() + 40
    while server.sessions and time.monotonic() < deadline:
        time.sleep(0.2)


def busiest(pool: RolloutPool) -> Any:
    """The living actor with most episodes."""
    return max((worker for worker in pool._workers if worker.alive), key=lambda worker: worker.places_taken)


def drivers(server: LabServer, cluster: Cluster) -> Iterator[str]:
    """Kill drivers in the middle of 64 episodes."""
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
        with_deadline(server)
        yield f"{name:<32}sessions open 64, left {server.sessions} after {time.monotonic() - began:.1f} s"


@contextmanager
def cluster_of_two() -> Iterator[Cluster]:
    """The tests' cluster with a second node."""
    with start_cluster() as cluster:
        add_node(cluster)
        with connected(cluster):
            yield cluster


def main(groups: int) -> None:
    """Print the table."""
    logging.disable()
    server = LabServer()
    try:
        with cluster_of_two() as cluster:

            def lose_a_node(pool: RolloutPool) -> None:
                node = next(iter(cluster.worker_nodes))
                cluster.remove_node(node, allow_graceful=False)
                for worker in pool._workers:
                    if worker.home is not None and worker.home.node_id == node.node_id:
                        kill_process(worker)
                add_node(cluster)

            def restart_server(pool: RolloutPool) -> None:
                server.kill()
                server.start()

            strikes: dict[str, Callable[[RolloutPool], None] | None] = {
                "nothing": None,
                "3 actors killed": lambda pool: ray.kill(busiest(pool).actor),
                "3 worker processes killed": lambda pool: kill_process(busiest(pool)),
                "3 nodes lost": lose_a_node,
                "server killed and restarted, 3x": restart_server,
            }
            print(f"{'':<32}{'asked':>6}{'complete':>10}{'dropped':>9}{'doubled':>9}{'left':>6}{'s':>7}  retried")
            for name, strike in strikes.items():
                row = Row(name, groups)
                asyncio.run(run_row(row, server, server.url, strike))
                print(row, flush=True)
            for name, plan in {"1 request in 20 cut": CutConnections(), "server full (429)": Full()}.items():

                async def through_proxy(row: Row, plan: Any) -> None:
                    async with FaultyProxy(server.url, plan) as proxy:
                        await run_row(row, server, proxy.url, None)

                row = Row(name, groups)
                asyncio.run(through_proxy(row, plan))
                refused = f"; 429 answered {plan.refused} times" if isinstance(plan, Full) else ""
                print(f"{row}{refused}", flush=True)
            for line in drivers(server, cluster):
                print(line, flush=True)
    finally:
        server.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=40)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
    else:
        main(arguments.groups)
