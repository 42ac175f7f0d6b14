"""ORS servers on a real Ray Serve: replicas come and go, and sessions are lost only with a replica that is killed."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import httpx
import pytest
import ray
from ray import serve
from ray.cluster_utils import Cluster

from ors_gym import EpisodeRunner, FailurePolicy, ORSClient, ScriptedPolicy, StopReason, TaskRef, ToolCall, run_groups
from ors_gym.client.session import Session
from ors_gym.errors import SessionLostError
from ors_gym.testing import check_server
from ors_gym_ray import serve_app
from ors_gym_ray.serve.registry import replica_of
from ors_gym_server.asgi.app import ORSApp
from tests.support.ors_servers import free_port
from tests.support.paths import ROOT
from tests.support.ray_clusters import connected
from tests.support.serve_replica import app_factory

MAX_SESSIONS = 4
MAX_REPLICAS = 4


def bench_app(factory: Callable[[], ORSApp]) -> serve.Application:
    return serve_app(
        factory,
        max_sessions_per_replica=MAX_SESSIONS,
        target_sessions_per_replica=3,
        max_replicas=MAX_REPLICAS,
        downscale_delay_seconds=0.5,
        metrics_seconds=0.3,
        replica_options={
            "num_cpus": 0,
            "runtime_env": {"env_vars": {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'integrations'}"}},
        },
    )


@pytest.fixture(scope="module")
def url(ray_cluster: Cluster) -> Iterator[str]:
    """An application whose replicas take four sessions and are wanted to have three."""
    port = free_port()
    with connected(ray_cluster):
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        serve.run(bench_app(app_factory))
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()


async def replicas() -> dict[str, tuple[int, bool]]:
    """Each replica's number of sessions and whether it is being drained, by its name."""
    overview = await serve.get_deployment_handle("Registry", "default").overview.remote()
    return {name: (load, draining) for name, load, draining in overview}


async def num_taking() -> int:
    return sum(not draining for _, draining in (await replicas()).values())


async def num_sessions_of_taking() -> int:
    return sum(load for load, draining in (await replicas()).values() if not draining)


async def one_runs() -> bool:
    return len(await replicas()) == 1


async def until(condition: Callable[[], Coroutine[None, None, bool]]) -> None:
    try:
        async with asyncio.timeout(200):  # a replica may take a minute to start on a busy machine
            while not await condition():
                await asyncio.sleep(0.1)
    except TimeoutError:
        status = serve.status().applications["default"].deployments["Replica"]
        raise AssertionError(f"{condition.__name__} never came true: {await replicas()}, {status}") from None


@asynccontextmanager
async def opened(client: ORSClient, count: int) -> AsyncIterator[list[Session]]:
    sessions = [client.session("bench", split="train", index=index) for index in range(count)]
    await asyncio.gather(*(session.open() for session in sessions))
    try:
        yield sessions
    finally:
        await asyncio.gather(*(session.close() for session in sessions))


async def work(session: Session) -> int:
    return int((await session.call_tool("work", {})).text)


def test_it_speaks_ors(run: Callable, url: str):
    report = run(check_server(url))
    assert report.ok, report


def test_an_event_stream_passes_through_as_it_comes(run: Callable, url: str):
    async def conversation() -> None:
        async with ORSClient(url) as client, httpx.AsyncClient(base_url=url, timeout=30) as http:
            async with opened(client, 1) as (session,):
                body = {"name": "wait", "input": {}}
                async with http.stream("POST", "/call", json=body, headers={"X-Session-ID": session.id}) as answer:
                    assert answer.status_code == 200
                    async for line in answer.aiter_lines():  # while the tool runs
                        if line.startswith("data: "):
                            break

    run(conversation())


@pytest.mark.timeout(600)
def test_no_episode_is_lost_while_replicas_come_and_go(run: Callable, url: str):
    seen: Counter[int] = Counter()

    async def all_started() -> bool:
        return await num_taking() == MAX_REPLICAS

    async def two_are_left() -> bool:
        return await num_taking() <= 2

    async def conversation() -> None:
        async with ORSClient(url) as client:
            policy = ScriptedPolicy([ToolCall("work", {})] * 12)
            runner = EpisodeRunner(client, policy)
            tasks = [TaskRef("bench", "train", index) for index in range(12)]
            while max(seen, default=0) < 2:  # until more replicas have started
                playing = run_groups(runner, tasks, 2, failures=FailurePolicy(retries=0), max_concurrent_groups=6)
                async for group in playing:
                    seen[await num_taking()] += 1
                    assert [member.stop_reason for member in group.members] == [StopReason.FINISHED] * 2
                    assert [len(member.transitions) for member in group.members] == [12, 12]
            await until(one_runs)

            async with AsyncExitStack() as stack:
                sessions: list[Session] = []
                http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=60))
                # Serve may drain a replica that was given sessions: then the others, and a new one, take the rest.
                while (answer := await http.post("/create_session")).status_code != 429:
                    num_free = MAX_SESSIONS * MAX_REPLICAS - await num_sessions_of_taking()
                    sessions += await stack.enter_async_context(opened(client, max(num_free, 0)))
                    await until(all_started)
                assert answer.headers["retry-after"] == "1"
                homes = Counter(replica_of(session.id) for session in sessions)
                assert max(homes.values()) <= MAX_SESSIONS
                assert [await work(session) for session in sessions] == [1] * len(sessions)

                # One session stays on each replica that takes sessions, so that none can stop and two of four are to.
                taking = {name for name, (_, is_draining) in (await replicas()).items() if not is_draining}
                stay = [next(each for each in sessions if replica_of(each.id) == home) for home in taking & set(homes)]
                await asyncio.gather(*(session.close() for session in sessions if session not in stay))
                await until(two_are_left)
                draining = taking & {name for name, (_, is_draining) in (await replicas()).items() if is_draining}
                assert draining
                assert draining < taking
                for count in (2, 3):
                    assert [await work(session) for session in stay] == [count] * len(stay)
                async with opened(client, 2) as fresh:
                    assert not draining & {replica_of(session.id) for session in fresh}
                assert draining <= set(await replicas())
            await until(one_runs)

    run(conversation())


def test_a_replica_drops_a_stalled_request(run: Callable, url: str):
    async def conversation() -> bytes:
        [replica, *_] = await serve.get_deployment_handle("Registry", "default").replicas.remote()
        host, _, port = replica.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    assert run(conversation()) == b""


def kill(deployment: str) -> None:
    """Kill a deployment's replicas without a word."""
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if f"#{deployment}#" in actor["name"]:
            with suppress(ValueError):  # it ended meanwhile
                ray.kill(ray.get_actor(actor["name"], namespace=actor["namespace"]))


def test_without_the_registry_and_the_ingress_sessions_only_wait(run: Callable, url: str):
    async def conversation() -> None:
        async with ORSClient(url) as client:
            async with opened(client, 1) as (session,):
                kill("Registry")
                assert await work(session) == 1
                async with opened(client, 1) as (fresh,):
                    assert await work(fresh) == 1
                kill("Ingress")
                assert await work(session) == 2

    run(conversation())


def test_a_killed_replica_loses_its_sessions_and_no_other(run: Callable, url: str):
    async def conversation() -> None:
        async with ORSClient(url) as client:
            async with opened(client, 8) as sessions:
                [(fullest, _)] = Counter(replica_of(each.id) for each in sessions).most_common(1)
                victim, *fellows = [each for each in sessions if replica_of(each.id) == fullest]
                others = [each for each in sessions if replica_of(each.id) != fullest]
                assert fellows
                assert others
                with pytest.raises(SessionLostError):
                    await victim.call_tool("burst", {})
                for fellow in fellows:
                    with pytest.raises(SessionLostError, match="the replica that held it is gone"):
                        await work(fellow)
                assert [await work(other) for other in others] == [1] * len(others)
                runner = EpisodeRunner(client, ScriptedPolicy([ToolCall("work", {})] * 12))
                trajectory = await runner.run_episode(TaskRef("bench", "train", 0))
                assert trajectory.stop_reason is StopReason.FINISHED

    run(conversation())


def test_sessions_of_the_old_version_end_on_it_and_deleting_waits_for_none(run: Callable, url: str):
    async def conversation() -> None:
        async with ORSClient(url) as client:
            await until(one_runs)  # Serve begins no update while a replica is being drained
            old = client.session("bench", split="train", index=0)
            await old.open()
            before = set(await replicas())
            updating = asyncio.create_task(asyncio.to_thread(serve.run, bench_app(partial(app_factory))))

            async def new_version_runs() -> bool:
                return bool(set(await replicas()) - before)

            assert await work(old) == 1
            await until(new_version_runs)
            async with opened(client, 1) as (fresh,):
                assert replica_of(fresh.id) not in before
                assert await work(old) == 2
                await old.close()
                await updating
                await asyncio.to_thread(serve.delete, "default")  # with `fresh` open

    run(conversation())


@pytest.mark.parametrize(
    "wrong",
    [{"max_sessions_per_replica": 0}, {"min_replicas": 0}, {"min_replicas": 5}, {"target_sessions_per_replica": 9}],
)
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, int]):
    with pytest.raises(ValueError, match=r"must be|at least one"):
        serve_app(app_factory, **{"max_sessions_per_replica": 4, "max_replicas": 4, **wrong})
