"""The default wire speaks HTTP/1.1 as servers speak it, well or badly."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ors_gym.errors import ConnectError, ConnectionLostError, ORSError, ProtocolError
from ors_gym.http.asyncio_transport import PAUSE_BYTES, AsyncioTransport, _Connection

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class ScriptedServer:
    """Answers each request with the next bytes; closes the connection after those that end with CLOSE."""

    def __init__(self, *answers: bytes | tuple[bytes, ...]) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> ScriptedServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            while self.answers:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                answer = self.answers.pop(0)
                for piece in (answer,) if isinstance(answer, bytes) else answer:
                    if piece == CLOSE:
                        writer.close()
                        return
                    writer.write(piece)
                    await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass


CLOSE = b"<close>"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def ask(*answers: bytes | tuple[bytes, ...], times: int | None = None) -> tuple[list[bytes | ORSError], ScriptedServer]:
    """Send as many requests as there are answers and read them to their end."""

    async def conversation() -> tuple[list[bytes | ORSError], ScriptedServer]:
        wire = AsyncioTransport(connect_seconds=5)
        outcomes: list[bytes | ORSError] = []
        async with ScriptedServer(*answers) as server:
            for _ in range(times or len(answers)):
                try:
                    async with wire.send("GET", f"{server.url}/path", {}, None) as response:
                        outcomes.append(await response.read())
                except ORSError as error:
                    outcomes.append(error)
            await wire.aclose()
        return outcomes, server

    return asyncio.run(asyncio.wait_for(conversation(), 30))


def test_a_connection_is_used_again_after_a_whole_answer():
    outcomes, server = ask(OK, OK, OK)
    assert outcomes == [b"ok"] * 3
    assert server.connections == 1


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: x\r\n\r\n",
            b"abcde",
        ),
        ((b"HTTP/1.1 200 OK\r\nConte", b"nt-Length: 4\r\n\r\na", b"bcd"), b"abcd"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    ],
    ids=["chunked", "in pieces", "after interim answers", "no content", "empty"],
)
def test_a_body_is_read_with_any_form_of_length(answer, body):
    outcomes, server = ask(answer, OK)
    assert outcomes == [body, b"ok"]
    assert server.connections == 1


@pytest.mark.parametrize(
    "head", [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"], ids=["1.0", "1.1"]
)
def test_a_body_without_a_length_ends_with_the_connection(head):
    outcomes, server = ask((head + b"all of", b" it", CLOSE), OK)
    assert outcomes == [b"all of it", b"ok"]
    assert server.connections == 2


def test_a_connection_the_server_wants_closed_is_not_used_again():
    outcomes, server = ask(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", OK)
    assert outcomes == [b"ok", b"ok"]
    assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        (CLOSE,),
        (b"HTTP/1.1 200", CLOSE),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", CLOSE),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", CLOSE),
    ],
    ids=["nothing", "in the head", "in the body", "between chunks"],
)
def test_an_answer_cut_short_is_a_lost_connection_and_never_a_short_body(answer):
    outcomes, _ = ask(answer, OK)
    assert isinstance(outcomes[0], ConnectionLostError)
    assert outcomes[1] == b"ok"


@pytest.mark.parametrize("answer", [b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
def test_an_answer_that_is_not_http_is_a_protocol_error(answer):
    outcomes, _ = ask(answer, OK)
    assert isinstance(outcomes[0], ProtocolError)
    assert outcomes[1] == b"ok"


@pytest.mark.parametrize("extra", [OK, b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\nevil"])
def test_an_unrequested_second_answer_is_never_taken_for_the_next_one(extra):
    outcomes, server = ask(OK + extra, OK)
    assert b"evil" not in outcomes
    assert outcomes[-1] == b"ok"
    assert server.connections == 2


def test_leaving_an_answer_unread_closes_its_connection():
    async def conversation() -> int:
        wire = AsyncioTransport(connect_seconds=5)
        async with ScriptedServer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", OK) as server:
            async with wire.send("GET", server.url, {}, None) as response:
                assert response.status == 200
            async with wire.send("GET", server.url, {}, None) as response:
                assert await response.read() == b"ok"
            await wire.aclose()
            return server.connections

    assert asyncio.run(conversation()) == 2


def test_a_large_answer_that_is_not_read_makes_the_server_wait():
    async def conversation() -> None:
        wire = AsyncioTransport(connect_seconds=5)
        written = 0
        size = 64 * PAUSE_BYTES
        waiting = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            while written < size:
                writer.write(b"x" * PAUSE_BYTES)
                written += PAUSE_BYTES
                try:
                    await asyncio.wait_for(writer.drain(), 0.2)
                except TimeoutError:
                    waiting.set()
                    await writer.drain()
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with wire.send("GET", url, {}, None) as response:
                async with asyncio.timeout(20):
                    await waiting.wait()
                assert written < size
                assert len(await response.read()) == size
        await wire.aclose()

    asyncio.run(conversation())


def test_nothing_listening_is_a_connect_error_that_names_the_address():
    async def conversation() -> None:
        wire = AsyncioTransport(connect_seconds=5)
        with pytest.raises(ConnectError, match=r"127\.0\.0\.1:9"):
            async with wire.send("GET", "http://127.0.0.1:9/", {}, None):
                raise AssertionError("connected")
        with pytest.raises(ConnectError, match="no-such-host"):
            async with wire.send("GET", "http://no-such-host.invalid/", {}, None):
                raise AssertionError("connected")

    asyncio.run(conversation())


@pytest.mark.parametrize("headers", [{"X-A": "b\r\nX-Evil: 1"}, {"X-A": "b\nc"}, {"X-A\r\n": "b"}, {"X-A": "b\r"}])
def test_a_header_cannot_smuggle_another(headers):
    with pytest.raises(ValueError, match="line break"):
        AsyncioTransport(connect_seconds=5).send("GET", "http://localhost/", headers, None)


def test_the_request_line_and_host_are_as_the_url_says():
    async def conversation() -> bytes:
        wire = AsyncioTransport(connect_seconds=5)
        async with ScriptedServer(OK) as server:
            async with wire.send("POST", f"{server.url}/a%20b?c=d", {"X-A": "ü"}, b"") as response:
                await response.read()
            await wire.aclose()
            return server.requests[0].replace(server.url.encode()[7:], b"HOST")

    expected = "POST /a%20b?c=d HTTP/1.1\r\nHost: HOST\r\nX-A: ü\r\nContent-Length: 0\r\n\r\n"
    assert asyncio.run(conversation()).decode("latin-1") == expected


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command = [*request, "-addext", names, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def test_certificates_are_verified_by_default(certificate):
    cert, key = certificate

    async def conversation() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(OK)
                await writer.drain()

        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
            url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            trusting = ssl.create_default_context(cafile=str(cert))
            for verify in (trusting, False):
                wire = AsyncioTransport(connect_seconds=5, verify=verify)
                async with wire.send("GET", url, {}, None) as response:
                    assert await response.read() == b"ok"
                await wire.aclose()
            wire = AsyncioTransport(connect_seconds=5)
            with pytest.raises(ConnectError, match="certificate"):
                async with wire.send("GET", url, {}, None):
                    raise AssertionError("connected")

    asyncio.run(conversation())


@pytest.mark.parametrize("loops", ["asyncio", "uvloop"])
def test_a_request_that_is_cancelled_while_it_connects_leaves_nothing_to_wait_for(loops, monkeypatch):
    factory = asyncio.new_event_loop if loops == "asyncio" else pytest.importorskip("uvloop").new_event_loop
    made = _Connection.connection_made

    async def conversation() -> None:
        async with ScriptedServer() as server:
            transport = AsyncioTransport(connect_seconds=30)

            async def request() -> None:
                async with transport.send("GET", f"{server.url}/", {}, None):
                    raise AssertionError("it was cancelled before")

            asking = asyncio.create_task(request())

            def cancelled(connection: _Connection, its_transport: asyncio.BaseTransport) -> None:
                made(connection, its_transport)
                asking.cancel()

            monkeypatch.setattr(_Connection, "connection_made", cancelled)
            with pytest.raises(asyncio.CancelledError):
                await asking
            await asyncio.wait_for(transport.aclose(), 30)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(conversation())
