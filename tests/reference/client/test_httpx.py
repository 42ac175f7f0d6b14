"""Transports, clients, auth objects and proxies of httpx."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import httpx2
import pytest
from openreward.environments import Server

from ors_gym.client.client import ORSClient
from ors_gym.errors import (
    AmbiguousCallError,
    ConnectError,
    ORSError,
)
from ors_gym.http.asgi import ASGITransport
from ors_gym.http.asyncio_transport import AsyncioTransport
from ors_gym.http.httpx_transport import HTTPXTransport
from tests.support.client_questions import ask, one_episode
from tests.support.environments import Counter, Ledger
from tests.support.faulty_proxy import FaultyProxy
from tests.support.ors_servers import free_port


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


def test_a_client_of_another_library_is_refused():
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
