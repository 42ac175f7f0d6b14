"""Discovery, the specification's variants, and everything httpx can bring along."""

from __future__ import annotations

import asyncio
import base64
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import httpx2
import pytest
from openreward.environments import Environment, Server, Split, ToolOutput, tool

from ors_gym.client.client import ORSClient, Timeouts
from ors_gym.errors import (
    AmbiguousCallError,
    AuthenticationError,
    ConnectError,
    NotFoundError,
    ORSError,
    ProtocolError,
    RequestTimeoutError,
    StatusError,
)
from ors_gym.http.asgi import ASGITransport
from ors_gym.http.asyncio_transport import AsyncioTransport
from ors_gym.http.httpx_transport import HTTPXTransport
from ors_gym.types import TextBlock
from tests.support.environments import Counter, Ledger, Mirror
from tests.support.faulty_proxy import Fault, FaultyProxy, http_answer
from tests.support.ors_servers import RunningServer, free_port, serve


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


def ask(url: str, question: Callable[[ORSClient], Any], **options: Any) -> Any:
    async def conversation() -> Any:
        async with ORSClient(url, **options) as client:
            return await question(client)

    return asyncio.run(conversation())


async def one_episode(client: ORSClient) -> str:
    async with client.session("counter", split="train", index=2) as session:
        assert await session.get_prompt() == (TextBlock("Count to 3."),)
        return (await session.call_tool("add", {"amount": 3})).text


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
def test_an_environments_name_is_found_whatever_its_case_and_owner_and_redirected_nowhere(server, name):
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
def test_a_server_that_is_no_ors_server_is_named(body):
    async def conversation() -> None:
        plan = lambda request: Fault(answer=http_answer("200 OK", body))  # noqa: E731
        async with FaultyProxy("http://unused", plan) as proxy, ORSClient(proxy.url) as client:
            with pytest.raises(ProtocolError) as caught:
                await client.list_environments()
            assert f"GET {proxy.url}/list_environments" in str(caught.value)

    asyncio.run(conversation())


# ------------------------------------------------------------------- refusals and retries


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 500])
def test_an_answer_is_not_asked_for_again(status):
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
def test_what_may_be_asked_twice_is_asked_again_and_not_for_ever(fault):
    async def conversation() -> int:
        async with FaultyProxy("http://unused", lambda request: fault) as proxy, ORSClient(proxy.url) as client:
            with pytest.raises(ORSError):
                await client.list_environments()
            return len(proxy.requests)

    assert asyncio.run(conversation()) == 4


def test_a_redirect_is_not_followed_with_keys_but_told(server):
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
def test_a_url_that_is_none_is_refused_with_what_to_write(url):
    with pytest.raises(ValueError, match="begins with http:// or https://"):
        ORSClient(url)


# ------------------------------------------------------------------- what httpx brings along


def test_an_application_in_this_process_is_a_server(server):
    reference = Server([Counter])
    transport = ASGITransport(reference.app)
    assert ask("http://app", one_episode, transport=transport) == "count 3"
    assert reference._active_envs == {}


def test_events_from_an_application_in_this_process_arrive_as_they_are_sent():
    async def conversation() -> None:
        proceed = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            await proceed.wait()
            await send({"type": "http.response.body", "body": b"second", "more_body": False})

        async with httpx.AsyncClient(transport=ASGITransport(app)) as client:
            async with client.stream("GET", "http://app/") as response:
                chunks = response.aiter_raw()
                assert await anext(chunks) == b"first"
                proceed.set()
                assert await anext(chunks) == b"second"

    asyncio.run(conversation())


@pytest.mark.parametrize("when", ["before", "during"])
def test_an_application_that_raises_is_a_broken_connection(when):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if when == "during":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise LookupError("mine")

    with pytest.raises(ORSError, match="mine"):
        ask("http://app", lambda client: client.health(), transport=ASGITransport(app))


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_a_client_of_the_users_own_is_used_and_left_open(server, library):
    async def conversation() -> None:
        seen: list[str] = []

        async def note(request: Any) -> None:
            seen.append(request.url.path)

        async with library.AsyncClient(event_hooks={"request": [note]}) as http_client:
            async with ORSClient(server.url, http_client=http_client) as client:
                assert await one_episode(client) == "count 3"
            assert not http_client.is_closed
        assert "/counter/call" in seen

    asyncio.run(conversation())


def test_an_auth_object_signs_every_request(server):
    class Sign(httpx.Auth):
        def auth_flow(self, request: httpx.Request) -> Any:
            request.headers["X-Signature"] = "signed"
            yield request

    async def conversation() -> None:
        async with FaultyProxy(server.url) as proxy, ORSClient(proxy.url, auth=Sign()) as client:
            assert await one_episode(client) == "count 3"
            assert all(b"x-signature: signed" in request.head.lower() for request in proxy.requests)

    asyncio.run(conversation())


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_a_proxy_is_used_when_it_is_given_or_set_in_the_environment(server, monkeypatch, how):
    async def conversation() -> None:
        async with FaultyProxy(server.url) as proxy:
            if how == "environment":
                monkeypatch.setenv("HTTP_PROXY", proxy.url)
                monkeypatch.setenv("http_proxy", proxy.url)
                monkeypatch.setenv("NO_PROXY", "")
                monkeypatch.setenv("no_proxy", "")
                client = ORSClient(server.url.replace("127.0.0.1", "ors.example"))
            else:
                client = ORSClient(server.url.replace("127.0.0.1", "ors.example"), proxy=proxy.url)
            async with client:
                assert await client.health()
            assert proxy.requests[0].path.startswith("http://ors.example:")

    asyncio.run(conversation())


def test_only_what_needs_httpx_travels_through_it(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert isinstance(ORSClient("http://localhost").connection.sender.transport, AsyncioTransport)
    assert isinstance(ORSClient("http://localhost", auth=("a", "b")).connection.sender.transport, HTTPXTransport)
    monkeypatch.setenv("http_proxy", "http://proxy:1")
    monkeypatch.setenv("no_proxy", "localhost")
    assert isinstance(ORSClient("http://localhost").connection.sender.transport, AsyncioTransport)
    assert isinstance(ORSClient("http://other").connection.sender.transport, AsyncioTransport)
    monkeypatch.setenv("http_proxy", "https://proxy:1")
    assert isinstance(ORSClient("http://other").connection.sender.transport, HTTPXTransport)


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_a_server_that_cannot_be_reached_through_the_users_client_is_a_connect_error(library):
    async def conversation() -> None:
        async with library.AsyncClient() as http_client:
            async with ORSClient(f"http://127.0.0.1:{free_port()}", http_client=http_client) as client:
                with pytest.raises(ConnectError, match="ConnectError"):
                    await client.list_environments()

    asyncio.run(conversation())


def test_a_client_of_another_library_is_refused_in_words():
    with pytest.raises(ValueError, match=r"httpx\.AsyncClient or an httpx2\.AsyncClient, got builtins\.object"):
        ORSClient("http://localhost", http_client=object())  # type: ignore[arg-type]


def test_the_users_client_and_transport_options_exclude_each_other():
    with pytest.raises(ValueError, match="http_client"):
        ORSClient("http://localhost", http_client=httpx.AsyncClient(), auth=("a", "b"))


def test_a_connect_error_of_a_foreign_transport_does_not_mean_that_nothing_was_sent(server):
    """httpx-aiohttp reports a connection cut after the request as a connect timeout."""

    class CutAfterSending(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await super().handle_async_request(request)
            if request.url.path.endswith("/call"):
                await response.aread()
                raise httpx.ConnectTimeout("cut", request=request)
            return response

    async def conversation(client: ORSClient) -> None:
        async with client.session("ledger", task={}) as session:
            with pytest.raises(AmbiguousCallError) as caught:
                await session.call_tool("work", {"key": "foreign"})
            assert caught.value.may_have_run is True

    ask(server.url, conversation, transport=CutAfterSending())
    assert Ledger.executions["foreign"] == 1


def test_a_self_hosted_url_is_used_as_it_is(server):
    async def conversation() -> list[str]:
        async with FaultyProxy(server.url) as proxy:
            async with ORSClient(f"{proxy.url}/behind/a/path/") as client:
                with pytest.raises(ORSError):
                    await client.health()
            return [request.path for request in proxy.requests]

    assert asyncio.run(conversation()) == ["/behind/a/path/health"]


# ------------------------------------------------------------------- secrets

API_KEY, SECRET, PASSWORD = "key-7f3a9c", "secret\\5d21e8", "password-90b1"
HIDDEN = (API_KEY, SECRET, "5d21e8", PASSWORD, base64.b64encode(SECRET.encode()).decode()[:8])


def everything_said(error: BaseException | None) -> str:
    said = ""
    while error is not None:
        said += f"{error} {error!r} {error.args!r} {vars(error)!r}"
        error = error.__cause__ or error.__context__
    return said


def test_keys_and_secrets_are_in_nothing_that_is_logged_or_raised(server, caplog):
    caplog.set_level(logging.DEBUG)
    said: list[str] = []

    async def conversation() -> None:
        faults = [
            Fault(answer=http_answer("500 No", b'{"detail": "%s"}' % f"{API_KEY} {SECRET}".encode())),
            Fault(drop_answer=True),
            Fault(answer=http_answer("401 No", API_KEY.encode())),
            None,
        ]
        for fault in faults:
            plan = lambda request, fault=fault: fault if request.path.endswith("/call") else None  # noqa: E731
            async with FaultyProxy(server.url, plan) as proxy:
                url = proxy.url.replace("http://", f"http://user:{PASSWORD}@")
                async with ORSClient(url, api_key=API_KEY) as client:
                    async with client.session("ledger", task={}, secrets={"TOKEN": SECRET}) as session:
                        said.append(f"{client!r} {session!r} {client.url}")
                        with pytest.raises(ORSError) as caught:
                            await session.call_tool("reveal")
                        said.append(everything_said(caught.value))
                    assert any(API_KEY.encode() in request.head for request in proxy.requests)
        echoes = f"{API_KEY} {SECRET}".encode()
        for answer in (http_answer("500 No", echoes), http_answer("200 OK", b"no JSON: " + echoes)):
            plan = lambda request, answer=answer: Fault(answer=answer) if request.path == "/create" else None  # noqa: E731
            async with FaultyProxy(server.url, plan) as proxy, ORSClient(proxy.url, api_key=API_KEY) as client:
                with pytest.raises(ORSError) as refused:
                    await client.session("ledger", task={}, secrets={"TOKEN": SECRET}).open()
                said.append(everything_said(refused.value))
        for bad in (f"{API_KEY}\n", f"{API_KEY}\u2028"):
            with pytest.raises(ValueError, match="header") as unsendable:
                await ORSClient(server.url, api_key=bad).health()
            said.append(everything_said(unsendable.value))
        client = ORSClient(f"http://user:{PASSWORD}@127.0.0.1:9", api_key=API_KEY)
        with pytest.raises(ConnectError) as unreached:
            await client.health()
        said.append(everything_said(unreached.value))

    asyncio.run(conversation())
    ours = [record for record in caplog.records if not record.name.startswith("sse_starlette")]  # the server's
    text = " ".join(said) + " ".join(f"{record.getMessage()} {record.args}" for record in ours)
    assert "•••" in text  # the servers did echo them
    assert [hidden for hidden in HIDDEN if hidden in text] == []


# ------------------------------------------------------------------- imports


def test_importing_the_client_is_light():
    script = "import sys, ors_gym, ors_gym.client.client, ors_gym.client.portal; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert {"ray", "trl", "torch", "openreward", "aiohttp", "uvicorn", "transformers"} & set(modules) == set()
