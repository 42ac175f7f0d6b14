"""The server as several processes: sessions stay where they are, and a crash is nobody else's."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import httpx
import pytest

from ors_gym import ORSClient, ORSError
from ors_gym.client.session import Session
from ors_gym.testing import check_server
from ors_gym_server import serve
from tests.support.paths import ROOT
from tests.support.processes import wait_until
from tests.support.programs import is_gone, running_server
from tests.support.server_environments import Forge

mill = functools.partial(running_server, "tests.support.worker_server")


async def opened(client: ORSClient, count: int) -> list[Session]:
    sessions = [client.session("mill", split="train", index=index) for index in range(count)]
    await asyncio.gather(*(session.open() for session in sessions))
    return sessions


async def home(session: Session) -> int:
    return int((await session.call_tool("where", {})).text)


def test_sessions_are_spread_over_the_workers_and_stay_where_they_are(run: Callable):
    async def conversation(url: str) -> None:
        async with ORSClient(url) as client:
            sessions = await opened(client, 6)
            homes = [await home(session) for session in sessions]
            assert sorted(Counter(homes).values()) == [2, 2, 2]
            for _ in range(5):
                assert await asyncio.gather(*map(home, sessions)) == homes
            for session in sessions[:2]:
                await session.close()
            for session in sessions[2:]:
                await session.close()

    with mill(3) as (_, url):
        run(conversation(url))
        report = run(check_server(url))
        assert report.ok, report


def test_a_worker_that_crashes_takes_only_its_own_sessions_along_and_is_replaced(run: Callable):
    async def conversation(url: str) -> None:
        async with ORSClient(url) as client:
            first, second, third, fourth = await opened(client, 4)
            homes = {session: await home(session) for session in (first, second, third, fourth)}
            victim, fellow = first, next(s for s in (second, third, fourth) if homes[s] == homes[first])
            others = [session for session in homes if session not in (victim, fellow)]
            waiting = asyncio.create_task(others[0].call_tool("grind", {}))
            with pytest.raises(ORSError):
                await victim.call_tool("burst", {})
            with pytest.raises(ORSError, match="does not know the session"):
                await home(fellow)
            assert (await waiting).text == "flour"
            for other in others:
                assert await home(other) == homes[other]
            fresh = await opened(client, 4)
            living = {await home(session) for session in fresh}
            assert len(living) == 2
            assert homes[first] not in living
            for session in (*others, *fresh):
                await session.close()

    with mill(2) as (process, url):
        run(conversation(url))
        process.terminate()
        _, failed = process.communicate(timeout=30)
    assert "worker" in failed
    assert "died with status 3 and is replaced" in failed


def test_an_event_stream_passes_through_as_it_comes(run: Callable):
    async def conversation(url: str) -> None:
        async with ORSClient(url) as client, httpx.AsyncClient(base_url=url, timeout=30) as http:
            (session,) = await opened(client, 1)
            body = {"name": "wait", "input": {}}
            async with http.stream("POST", "/call", json=body, headers={"X-Session-ID": session.id}) as answer:
                async for line in answer.aiter_lines():  # while the tool runs
                    if line.startswith("data: "):
                        break
            await session.close()

    with mill(2) as (_, url):
        run(conversation(url))


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_on_stop_it_lets_calls_end_and_every_worker_tears_its_sessions_down(run: Callable, sent: signal.Signals):
    async def conversation(url: str, process: subprocess.Popen[str]) -> str:
        client = ORSClient(url)
        sessions = await opened(client, 3)
        call = asyncio.create_task(sessions[0].call_tool("grind", {}))
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "grinding\n"
        process.send_signal(sent)
        return (await call).text

    with mill(2) as (process, url):
        assert run(conversation(url, process)) == "flour"
        said, failed = process.communicate(timeout=30)
    assert sorted(said.split()) == ["0", "1", "2", "teardown", "teardown", "teardown"]
    assert "Traceback" not in failed
    assert "replaced" not in failed


def test_workers_end_with_a_parent_that_is_killed_without_a_word(run: Callable):
    async def conversation(url: str) -> list[int]:
        async with ORSClient(url) as client:
            sessions = await opened(client, 2)
            homes = [await home(session) for session in sessions]
            for session in sessions:
                await session.close()
            return homes

    with mill(2) as (process, url):
        workers = run(conversation(url))
        process.kill()
        wait_until(lambda: all(map(is_gone, workers)))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("run = lambda *_: os._exit(7)", "RuntimeError: the .* ended before it answered, with status 7"),
        ("fork = os.fork; forks = iter([fork, fork]); os.fork = lambda: next(forks)()", "StopIteration"),
    ],
)
def test_a_server_that_cannot_start_says_why_and_leaves_no_process(fault: str, said: str):
    program = f"""
import multiprocessing, os, signal
from ors_gym_server import create_app
from ors_gym_server.run.workers import Prefork, _loopback_socket
from tests.support.worker_server import Mill

class Checked(Prefork):
    def _stop(self):
        super()._stop()
        assert not multiprocessing.active_children()

def run(app, listener, ready, tick):
    signal.raise_signal(signal.SIGTERM)  # it may come before the server listens to signals
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        tick()

{fault}
Checked(create_app([Mill]), _loopback_socket(), run, 2).run(print)
"""
    path = os.pathsep.join([str(ROOT), str(ROOT / "integrations")])
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 1
    assert re.search(said, ended.stderr.splitlines()[-1])


def test_there_is_at_least_one_worker():
    with pytest.raises(ValueError, match="at least one worker"):
        serve([Forge], workers=0)
