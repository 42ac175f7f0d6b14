"""Where the methods of a session run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from ors_gym import ORSClient
from ors_gym_server import Limits
from tests.support.forge import bare, forge, opened
from tests.support.server_environments import Forge

pytestmark = pytest.mark.usefixtures("forget")


def test_the_synchronous_methods_of_a_session_share_one_thread(run: Callable):
    async def conversation(url: str) -> None:
        async with ORSClient(url) as client, client.session("forge", split="train", index=0) as session:
            Forge.released["a"].set()
            assert (await session.call_tool("grip", {"text": "a"})).text == "True"

    with forge() as (_, url):
        run(conversation(url))


def test_any_number_of_stuck_sessions_leave_the_others_alone(run: Callable):
    async def conversation(url: str) -> None:
        async with bare(url, limits=httpx.Limits(max_connections=200)) as http:
            sessions = [await opened(http) for _ in range(60)]
            body = {"name": "grip", "input": {"text": "a"}}
            calls = [asyncio.create_task(http.post("/call", json=body, headers=headers)) for headers in sessions]
            while Forge.executions["a"] < 60:
                await asyncio.sleep(0.01)
            sessions.append(await opened(http))
            assert (await http.get("/prompt", headers=sessions[-1])).status_code == 200  # synchronous, too
            Forge.released["a"].set()
            for call in calls:
                assert "True" in (await call).text
            for headers in sessions:
                await http.post("/delete", headers=headers)

    with forge() as (_, url):
        run(conversation(url))


def test_concurrent_synchronous_tools_of_one_session_run_at_once(run: Callable):
    async def conversation(url: str) -> None:
        async with ORSClient(url) as client, client.session("forge", split="train", index=0) as session:
            halves = await asyncio.gather(*(session.call_tool("meet", {"text": text}) for text in "ab"))
            assert [half.text for half in halves] == ["a", "b"]

    with forge() as (_, url):
        run(conversation(url))


def test_an_asynchronous_tool_that_blocks_the_event_loop_is_reported(run: Callable, caplog: Any):
    async def conversation(url: str) -> None:
        async with bare(url) as http:
            headers = {"X-Session-ID": "a"}
            await http.post("/create", json={"env_name": "ledger", "task_spec": {}}, headers=headers)
            body = {"name": "block", "input": {"key": "a", "seconds": 0.8}}
            await http.post("/call", json=body, headers=headers)
            while "held up for" not in caplog.text:
                await asyncio.sleep(0.01)
            await http.post("/delete", headers=headers)

    with forge(limits=Limits(session_timeout_seconds=0.4)) as (_, url):
        run(conversation(url))
