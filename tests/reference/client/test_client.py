"""Discovery, the variants that the specification allows, refusals and retries."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from openreward.environments import Environment, Split, ToolOutput, tool

from ors_gym.client.client import ORSClient, Timeouts
from ors_gym.errors import (
    AuthenticationError,
    NotFoundError,
    ORSError,
    ProtocolError,
    RequestTimeoutError,
    StatusError,
)
from ors_gym.http.asyncio_transport import AsyncioTransport
from tests.support.client_questions import ask
from tests.support.environments import Counter, Ledger, Mirror
from tests.support.faulty_proxy import Fault, FaultyProxy, http_answer
from tests.support.ors_servers import RunningServer, serve


class Endless(Environment):
    """Tasks too many to list: 2,500 of them, by index only."""

    def get_prompt(self):
        return []

    @tool
    def wait(self) -> ToolOutput:
        """Wait."""
        return ToolOutput(blocks=[])

    @classmethod
    def list_splits(cls):
        return ["train", Split(name="hard", type="test")]

    @classmethod
    def list_tasks(cls, split):
        raise NotImplementedError

    @classmethod
    async def num_tasks(cls, split):
        return 2500

    @classmethod
    async def get_task(cls, split, index):
        return {"target": index}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serve(Counter, Mirror, Ledger, Endless) as running:
        yield running
        assert running.live_sessions == {}


# ------------------------------------------------------------------- discovery


def test_a_server_says_what_it_has(server):
    async def conversation(client: ORSClient) -> None:
        assert await client.health()
        assert await client.list_environments() == ("counter", "mirror", "ledger", "endless")
        assert [(split.name, split.type) for split in await client.list_splits("counter")] == [
            ("train", "train"),
            ("test", "test"),
        ]
        assert [(split.name, split.type) for split in await client.list_splits("endless")] == [
            ("train", "train"),
            ("hard", "test"),
        ]
        tools = await client.list_tools("counter")
        assert tools.names == ("add", "crash", "echo", "look")
        assert tools[0].description == "Add to the count."
        assert tools[0].parameters["properties"]["amount"]["type"] == "integer"
        assert tools[3].input_schema is None
        assert await client.num_tasks("counter", "train") == 5
        assert await client.get_task("counter", "train", 3) == {"id": "train-4", "target": 4}
        assert await client.get_task("counter", "train", -1) == {"id": "train-5", "target": 5}

    ask(server.url, conversation)


@pytest.mark.parametrize("bounds", [(1, 3), (None, 2), (-2, None), (3, 100), (4, 2), (None, None)])
def test_a_range_of_tasks_follows_pythons_slices(server, bounds):
    tasks = ask(server.url, lambda client: client.get_tasks("counter", "train", *bounds))
    assert [task["target"] for task in tasks] == [1, 2, 3, 4, 5][slice(*bounds)]


def test_tasks_are_listed_page_by_page_where_listing_is_refused(server):
    async def conversation(client: ORSClient) -> None:
        assert [task["target"] for task in await client.list_tasks("endless", "train")] == list(range(2500))

    ask(server.url, conversation)


def test_a_refusal_that_has_nothing_to_do_with_listing_stays_what_it_is(server):
    with pytest.raises(StatusError, match="Invalid split"):
        ask(server.url, lambda client: client.list_tasks("counter", "dev"))


@pytest.mark.parametrize("name", ["endless", "Endless", "ENDLESS", "someone/Endless"])
def test_an_environments_name_is_found_in_any_case_and_redirected_nowhere(server, name):
    async def conversation() -> list[str]:
        async with FaultyProxy(server.url) as proxy, ORSClient(proxy.url) as client:
            assert await client.num_tasks(name, "train") == 2500
            assert await client.num_tasks(name, "train") == 2500
            return [request.path for request in proxy.requests]

    assert asyncio.run(conversation()) == ["/list_environments", "/endless/num_tasks", "/endless/num_tasks"]


def test_an_unknown_environment_is_an_error_that_names_the_known_ones(server):
    with pytest.raises(NotFoundError, match="no environment 'chess'; the server has 'counter', 'mirror'"):
        ask(server.url, lambda client: client.list_tools("chess"))


def test_many_sessions_that_open_at_once_look_for_the_environment_once(server):
    async def conversation() -> int:
        async with FaultyProxy(server.url) as proxy, ORSClient(proxy.url) as client:
            sessions = [client.session("counter", split="train", index=0) for _ in range(20)]
            await asyncio.gather(*(session.open() for session in sessions))
            return proxy.count("/list_environments")

    assert asyncio.run(conversation()) == 1


def test_no_more_requests_are_under_way_than_allowed(server):
    async def conversation(client: ORSClient) -> int:
        most = 0
        wire = client.connection.sender.transport
        assert isinstance(wire, AsyncioTransport)

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(wire._open))
                await asyncio.sleep(0)

        watcher = asyncio.create_task(watch())
        await asyncio.gather(*(client.num_tasks("counter", "train") for _ in range(50)))
        watcher.cancel()
        return most

    assert ask(server.url, conversation, max_connections=3) == 3


# ------------------------------------------------------------------- the specification's variants


def test_a_session_id_may_come_as_json(server):
    async def conversation() -> None:
        def plan(request: Any) -> Fault | None:
            if request.path != "/create_session":
                return None
            return Fault(answer=http_answer("200 OK", b'{"sid": "from-json"}', Content_Type="application/json"))

        async with FaultyProxy(server.url, plan) as proxy, ORSClient(proxy.url) as client:
            async with client.session("counter", split="train", index=0) as session:
                assert session.id == "from-json"
                assert list(server.live_sessions) == ["from-json"]

    asyncio.run(conversation())


def test_a_result_may_come_as_json(server):
    answer = http_answer(
        "200 OK", b'{"ok": true, "output": {"blocks": [], "reward": 0}}', Content_Type="application/json"
    )

    async def conversation() -> None:
        plan = lambda request: Fault(answer=answer) if request.path.endswith("/call") else None  # noqa: E731
        async with FaultyProxy(server.url, plan) as proxy, ORSClient(proxy.url) as client:
            async with client.session("counter", split="train", index=0) as session:
                assert (await session.call_tool("add")).reward == 0.0

    asyncio.run(conversation())


def test_servers_without_messages_and_session_tools_are_served_from_their_older_routes(server):
    async def conversation() -> None:
        def plan(request: Any) -> Fault | None:
            old = request.path.endswith(("/messages", "/task_tools", "/delete_session"))
            return Fault(answer=http_answer("404 Not Found", b'{"detail":"Not Found"}')) if old else None

        async with FaultyProxy(server.url, plan) as proxy, ORSClient(proxy.url) as client:
            async with client.session("mirror", task={"text": "hello"}) as session:
                (message,) = await session.get_messages()
                assert (message.role, message.text) == ("user", "hello")
                assert "give" in (await session.list_tools()).names

    asyncio.run(conversation())


@pytest.mark.parametrize("body", [b"<html>hello</html>", b'{"names": []}', b"3", b'"counter"'])
def test_a_server_that_is_not_an_ors_server_is_named(body):
    async def conversation() -> None:
        plan = lambda request: Fault(answer=http_answer("200 OK", body))  # noqa: E731
        async with FaultyProxy("http://unused", plan) as proxy, ORSClient(proxy.url) as client:
            with pytest.raises(ProtocolError) as caught:
                await client.list_environments()
            assert f"GET {proxy.url}/list_environments" in str(caught.value)

    asyncio.run(conversation())


# ------------------------------------------------------------------- refusals and retries


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 500])
def test_an_answer_is_not_requested_again(status):
    async def conversation() -> int:
        plan = lambda request: Fault(answer=http_answer(f"{status} No", b'{"detail": "why"}'))  # noqa: E731
        async with FaultyProxy("http://unused", plan) as proxy, ORSClient(proxy.url) as client:
            with pytest.raises(StatusError, match="why") as caught:
                await client.list_environments()
            assert isinstance(caught.value, AuthenticationError) == (status in (401, 403))
            return len(proxy.requests)

    assert asyncio.run(conversation()) == 1


@pytest.mark.parametrize(
    "fault", [Fault(refuse=True), Fault(refuse=True, reset=True), Fault(answer=http_answer("502 Bad Gateway"))]
)
def test_idempotent_requests_are_retried_a_limited_number_of_times(fault):
    async def conversation() -> int:
        async with FaultyProxy("http://unused", lambda request: fault) as proxy, ORSClient(proxy.url) as client:
            with pytest.raises(ORSError):
                await client.list_environments()
            return len(proxy.requests)

    assert asyncio.run(conversation()) == 4


def test_a_redirect_is_reported_instead_of_followed_with_keys(server):
    async def conversation() -> None:
        plan = lambda request: Fault(  # noqa: E731
            answer=http_answer("308 Permanent Redirect", b"", Location="https://elsewhere.example/")
        )
        async with FaultyProxy(server.url, plan) as proxy, ORSClient(proxy.url, api_key="k") as client:
            with pytest.raises(StatusError, match=r"redirected to https://elsewhere\.example/"):
                await client.list_environments()

    asyncio.run(conversation())


def test_a_request_over_its_time_is_a_timeout_that_says_how_long():
    async def conversation() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        async with await asyncio.start_server(silent, "127.0.0.1", 0) as listening:
            url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            async with ORSClient(url, timeouts=Timeouts(request_seconds=0.1)) as client:
                with pytest.raises(RequestTimeoutError, match=r"within 0\.1 s"):
                    await client.health()

    asyncio.run(conversation())


@pytest.mark.parametrize("seconds", [0, -1, None])
def test_a_timeout_is_a_positive_number(seconds):
    with pytest.raises(ValueError, match=r"Timeouts\.silence_seconds"):
        Timeouts(silence_seconds=seconds)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://host", "", "http://"])
def test_an_invalid_url_is_refused_with_an_example(url):
    with pytest.raises(ValueError, match="begins with http:// or https://"):
        ORSClient(url)


# ------------------------------------------------------------------- imports


def test_importing_the_client_is_light():
    script = "import sys, ors_gym, ors_gym.client.client, ors_gym.client.portal; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert {"ray", "trl", "torch", "openreward", "aiohttp", "uvicorn", "transformers"} & set(modules) == set()
