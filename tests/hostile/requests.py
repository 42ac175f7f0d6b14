"""What a client may send to a server: bytes that are HTTP, nearly HTTP, or nothing."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from urllib.parse import urlsplit

import httpx

from tests.hostile.attempts import Attempt
from tests.hostile.inputs import Inputs, encoded

__all__ = ["attempts_on"]

ANSWER_SECONDS = 60.0
PATHS = (
    "/create_session",
    "/create",
    "/call",
    "/ping",
    "/delete",
    "/prompt",
    "/{name}/tools",
    "/{name}/tasks",
    "/{name}/splits",
)
BIG = 2_000_000


def post(path: str, body: bytes, *headers: str, length: str | None = None) -> bytes:
    """A request with a body."""
    length = str(len(body)) if length is None else length
    lines = (f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers)
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode("latin-1") + body


def get(path: str, *headers: str, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    """A request without one."""
    return "\r\n".join([f"{method} {path} {version}", "Host: localhost", *headers, "", ""]).encode("latin-1", "replace")


def requests(name: str, sid: str) -> Iterator[tuple[str, bytes]]:
    """Each request, with what is odd about it; ``name`` is an environment of the server, ``sid`` a session."""
    session = f"X-Session-ID: {sid}"
    call = partial(post, "/call")
    deep = b'{"name": "where", "input": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001
    yield "arguments 5,000 deep", call(deep, session)
    yield "an array 100,000 deep", call(b"[" * 100_000, session)
    yield "a number of 100,000 digits", call(b'{"name": "where", "input": {"n": ' + b"9" * 100_000 + b"}}", session)
    yield "700,000 unknown keys", call(json.dumps({f"k{n}": n for n in range(700_000)}).encode(), session)
    yield "2,000,000 empty lists", call(b'{"name": "where", "input": {"a": [' + b"[]," * BIG + b"1]}}", session)
    yield "17 MB of text", call(b'{"name": "where", "input": {"a": "' + b"x" * 17_000_000 + b'"}}', session)
    yield (
        "a NUL and half a surrogate pair",
        call(b'{"name": "a\\u0000\\ud800", "input": {"\\ud800": "\\u0000"}}', session),
    )
    yield "bytes that are no UTF-8", call(b'{"name": "\xff\xfe", "input": {}}', session)
    yield "NaN and infinities", call(b'{"name": "where", "input": {"n": NaN, "m": -Infinity, "o": 1e999}}', session)
    yield (
        "a task id of 100 kB",
        call(json.dumps({"name": "where", "input": {}, "task_id": "t" * 100_000}).encode(), session),
    )
    yield "a task id with a line break", call(b'{"name": "where", "input": {}, "task_id": "a\\r\\nb"}', session)
    yield "a session id of 60 kB", call(b"{}", "X-Session-ID: " + "s" * 60_000)
    yield "a session id beyond ASCII", call(b"{}", "X-Session-ID: \xff\xfe")
    yield "two session ids", call(b"{}", session, "X-Session-ID: other")
    for secrets in ("!", "e30", "bnVsbA==", "W10=", "eyJhIjogMX0=", "A" * 50_000):
        yield f"X-Secrets {secrets[:9]}", post("/create", b'{"task_spec": {}}', session, f"X-Secrets: {secrets}")
    for index in ("-1", "1e99", "10000000000000000000000000", "true", "null", '"0"', "[0]"):
        body = f'{{"env_name": "{name}", "split": "train", "index": {index}}}'.encode()
        yield f"the task at {index}", post(f"/{name}/task", body)
        yield f"a session of the task at {index}", post("/create", body, f"X-Session-ID: no-{sid}")
    for bounds in ("-9999999999999999999, 9999999999999999999", "0, 999999999999", "null, null", "5, -5"):
        start, stop = bounds.split(", ")
        yield (
            f"tasks {bounds}",
            post(f"/{name}/task_range", f'{{"split": "train", "start": {start}, "stop": {stop}}}'.encode()),
        )
    for path in (
        "/" + "a" * 8_000,
        "/../../etc/passwd",
        "/%00",
        "/%ff%fe/tools",
        "//",
        "/?" + "q=1&" * 5_000,
        f"/{name}/%2e%2e/tools",
    ):
        yield f"GET {path[:20]}", get(path)
    for method in ("HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "CONNECT", "BREW", "A" * 5_000):
        yield method[:10], get(f"/{name}/tools", method=method)
    for version in ("HTTP/0.9", "HTTP/1.0", "HTTP/2.0", "HTTP/9.9", "HTP/1.1", ""):
        yield f"version {version}", get("/health", version=version)
    yield "1,000 headers", get("/health", *(f"X-{n}: {n}" for n in range(1_000)))
    yield "headers of 600 kB", get("/health", "X-A: " + "a" * 600_000)
    yield "a header without a colon", get("/health", "X-A")
    yield "a folded header", get("/health", "X-A: a\r\n b")
    yield "two lengths", post("/ping", b"{}", "Content-Length: 7")
    yield "a length and chunks", post("/ping", b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n", "Transfer-Encoding: chunked")
    for length in ("-1", "1e3", "9" * 30, "0x10", "+2", ""):
        yield f"a length of {length[:5]}", post("/ping", b"{}", length=length)
    chunked = get("/ping", "Transfer-Encoding: chunked", method="POST")
    for size in (b"ffffffffffffffff", b"-1", b"g", b"1;" + b"x" * 100_000, b"1 ", b""):
        yield f"a chunk of {size[:8]!r}", chunked + size + b"\r\nx\r\n0\r\n\r\n"
    yield "a web socket", get("/health", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: eA==")
    yield "HTTP/2 at once", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)
    yield "TLS", bytes.fromhex("1603010200010001fc0303") + bytes(300)
    yield "nothing but NULs", bytes(100_000)
    yield "100 requests at once", get("/health") * 100
    yield "a body without end", post("/ping", b"{", length="1000")
    yield "Expect", post("/ping", b"{}", "Expect: 100-continue")
    yield "another host", get("/health").replace(b"Host: localhost", b"Host: evil.example.com")
    yield "no host", get("/health").replace(b"Host: localhost\r\n", b"")


def random_requests(name: str, sid: str, count: int, inputs: Inputs) -> Iterator[tuple[str, bytes]]:
    """Random bodies to every path, and sound requests with damaged bytes."""
    for number in range(count):
        path = inputs.random.choice(PATHS).format(name=name)
        request = post(path, encoded(inputs.json_text()), f"X-Session-ID: {sid}")
        if number % 3 == 0:
            at = inputs.random.randrange(len(request))
            request = request[:at] + inputs.random.randbytes(inputs.random.randrange(4)) + request[at + 1 :]
        yield f"random request {number} to {path}: {request[-200:]!r}", request


async def exchanged(url: str, request: bytes) -> str:
    """Send bytes, and say what is wrong with the answer. None within time is right for a request without an end."""
    host, port = urlsplit(url).hostname, urlsplit(url).port
    reader, writer = await asyncio.open_connection(host, port, limit=2**20)
    answer = b""
    try:
        with suppress(ConnectionError):
            writer.write(request)
            await asyncio.wait_for(writer.drain(), ANSWER_SECONDS)
            writer.write_eof()
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await reader.read(65536)
    except TimeoutError:
        return f"no answer within {ANSWER_SECONDS:g} s"
    finally:
        writer.transport.abort()
    status = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
    if answer and status is None:
        return f"the answer is no HTTP: {answer[:80]!r}"
    if status is not None and int(status[1]) >= 500 and status[1] not in (b"501", b"503", b"505"):
        return f"answered {answer[:300]!r}"
    return "a traceback is in the answer" if b"Traceback" in answer else ""


async def _lives(url: str) -> bool:
    async with httpx.AsyncClient(base_url=url, timeout=ANSWER_SECONDS) as http:
        return (await http.get("/health")).status_code == 200


async def attempts_on(url: str, name: str, count: int, inputs: Inputs) -> list[tuple[str, Attempt]]:
    """Attempts on the server at ``url``, ``count`` of them random. After each, the server must answer others."""
    async with httpx.AsyncClient(base_url=url, timeout=ANSWER_SECONDS) as http:
        opened = await http.post("/create_session")
        sid = re.findall(r"[\w.:-]{8,}", opened.text.replace("task_id", ""))[-1]
        task = {"env_name": name, "split": "train", "index": 0}
        await http.post("/create", json=task, headers={"X-Session-ID": sid})

    async def attempt(request: bytes) -> str:
        broke = await exchanged(url, request)
        return broke or ("" if await _lives(url) else "the server answers no one any more")

    made = [*requests(name, sid), *random_requests(name, sid, count, inputs)]
    return [(what, partial(attempt, request)) for what, request in made]
