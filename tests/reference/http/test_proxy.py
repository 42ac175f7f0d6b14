"""One address before several servers: what passes, what is cut, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from ors_gym.http.answers import RefusedError
from ors_gym.http.proxy import StickyProxy
from ors_gym_server import create_app
from tests.support.ors_servers import free_port, serve_app
from tests.support.server_environments import Forge


class Fixed:
    """Backends of one server, or none."""

    def __init__(self, url: str | None) -> None:
        self.url = url
        self.asked: list[str] = []

    async def place(self) -> str:
        raise RefusedError(429, "all are full", 7)

    async def find(self, session_id: str) -> str:
        self.asked.append(session_id)
        return await self.any()

    async def any(self) -> str:
        if self.url is None:
            raise RefusedError(503, "one is starting", 1)
        return self.url

    async def unreachable(self, url: str) -> RefusedError:
        return RefusedError(404, f"nobody is at {url}")


Handler = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def relayed(
    run: Callable, handler: Handler, conversation: Callable[[httpx.AsyncClient, Fixed], Awaitable[Any]]
) -> None:
    """Talk through a proxy with a server whose answers are written byte by byte; the proxy runs on another loop."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"GET /list_environments "):  # whether the client is let in
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]")
                else:
                    await handler(head, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def talk() -> None:
        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            backends = Fixed(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            with serve_app(StickyProxy(backends, max_request_bytes=1000)) as running:
                async with httpx.AsyncClient(base_url=running.url, timeout=20) as http:
                    await conversation(http, backends)

    run(talk())


def test_a_request_and_its_answer_pass_whole(run: Callable):
    heads: list[bytes] = []

    async def handler(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(head + await reader.readexactly(4))
        writer.write(b"HTTP/1.1 418 Teapot\r\ncontent-length: 3\r\nx-kind: pot\r\n\r\ntea")

    async def conversation(http: httpx.AsyncClient, backends: Fixed) -> None:
        for _ in range(2):
            headers = {"X-Session-ID": "s1", "X-Secrets": "abc"}
            answer = await http.post("/brew/call?strong=%20yes", content=b"milk", headers=headers)
            assert (answer.status_code, answer.text, answer.headers["x-kind"]) == (418, "tea", "pot")
        assert backends.asked == ["s1", "s1"]
        assert heads[0] == heads[1]
        assert heads[0].startswith(b"POST /brew/call?strong=%20yes HTTP/1.1\r\n")
        assert heads[0].endswith(b"\r\n\r\nmilk")
        assert b"x-secrets: abc\r\n" in heads[0]

    relayed(run, handler, conversation)


def test_a_stream_that_the_server_cuts_is_cut_for_the_client(run: Callable):
    async def handler(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        writer.close()

    async def conversation(http: httpx.AsyncClient, backends: Fixed) -> None:
        pieces: list[bytes] = []
        with pytest.raises(httpx.RemoteProtocolError):
            async with http.stream("GET", "/stream") as answer:
                pieces.extend([piece async for piece in answer.aiter_bytes()])
        assert pieces in ([], [b"first"])

    relayed(run, handler, conversation)


def test_a_server_that_says_nothing_is_a_gateway_failure(run: Callable):
    async def handler(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def conversation(http: httpx.AsyncClient, backends: Fixed) -> None:
        answer = await http.get("/prompt")
        assert answer.status_code == 502  # a client may not think that nothing ran

    relayed(run, handler, conversation)


def test_a_client_that_leaves_takes_its_request_along(run: Callable):
    gone = asyncio.Event()

    async def handler(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        with contextlib.suppress(ConnectionError):
            assert await reader.read(1) == b""
        gone.set()

    async def conversation(http: httpx.AsyncClient, backends: Fixed) -> None:
        async with http.stream("GET", "/stream") as answer:
            async for piece in answer.aiter_bytes():
                assert piece == b"first"
                break
        async with asyncio.timeout(20):
            await gone.wait()

    relayed(run, handler, conversation)


def test_a_client_that_leaves_before_the_answer_begins_takes_its_request_along(run: Callable):
    asked, gone = asyncio.Event(), asyncio.Event()

    async def handler(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()  # and answers nothing, as a server does that hangs
        with contextlib.suppress(ConnectionError):
            assert await reader.read(1) == b""
        gone.set()

    async def conversation(http: httpx.AsyncClient, backends: Fixed) -> None:
        asking = asyncio.create_task(http.get("/prompt"))
        async with asyncio.timeout(20):
            await asked.wait()
            asking.cancel()
            await asyncio.wait([asking])
            await gone.wait()

    relayed(run, handler, conversation)


def test_what_is_too_large_goes_no_further(run: Callable):
    async def handler(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError(head)

    async def conversation(http: httpx.AsyncClient, backends: Fixed) -> None:
        answer = await http.post("/call", content=b"x" * 1001)
        assert answer.status_code == 413

    relayed(run, handler, conversation)


def test_refusals_say_whether_to_come_again(run: Callable):
    async def conversation(url: str, backends: Fixed, server: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=20) as http:
            starting = await http.get("/tools")
            assert starting.status_code == 503
            assert starting.headers["x-backend-state"] == "starting"
            assert starting.headers["retry-after"] == "1"
            backends.url = server
            full = await http.post("/create_session")
            assert (full.status_code, full.headers["retry-after"]) == (429, "7")
            assert full.json() == {"detail": "all are full"}
            backends.url = f"http://127.0.0.1:{free_port()}"
            assert (await http.get("/tools")).status_code == 404

    backends = Fixed(None)
    with serve_app(StickyProxy(backends)) as running, serve_app(create_app([Forge])) as server:
        run(conversation(running.url, backends, server.url))


class Placing(Fixed):
    """Backends of one server that has room."""

    num_placed = 0

    async def place(self) -> str:
        self.num_placed += 1
        return f"session-{self.num_placed}"


def test_without_the_key_of_the_servers_nothing_is_read_or_placed(run: Callable):
    async def conversation(url: str, backends: Placing) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=20) as http:
            for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}):
                for path in ("/create_session", "/create", "/call", "/tools"):
                    answer = await http.post(path, content=b"x" * 2000, headers=headers)  # more than the limit
                    assert answer.status_code == 401
            assert backends.num_placed == 0
            assert (await http.get("/health")).status_code == 200
            for headers in ({"X-API-Key": "k3y"}, {"Authorization": "bearer k3y"}):
                assert "session-" in (await http.post("/create_session", headers=headers)).text
                assert (await http.post("/create", content=b"x" * 2000, headers=headers)).status_code == 413
                assert (await http.head("/tools", headers=headers)).status_code == 200

    with serve_app(create_app([Forge], api_key="k3y")) as server:
        backends = Placing(server.url)
        with serve_app(StickyProxy(backends, max_request_bytes=1000)) as running:
            run(conversation(running.url, backends))
