"""Clients that begin something and do not go on with it, with one process and with several."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.guarded_server import KEY, LIMITS
from tests.support.paths import ROOT
from tests.support.processes import wait_until


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two workers"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a server."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "integrations")])
    command = [sys.executable, "-m", "tests.support.guarded_server", str(request.param)]
    environ = os.environ | {"PYTHONPATH": path}
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            process.wait(60)


@contextlib.contextmanager
def connection(url: str) -> Iterator[socket.socket]:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.socket() as connected:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connected.settimeout(30)
        connected.connect((host, int(port)))
        yield connected


def rest(connected: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connected.recv(65536):
            said += piece
    return said


def post(path: str, size: int, **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {size}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n", b"\r\n", b"GET"],
    ids=["nothing", "a line", "headers", "an empty line", "a word"],
)
def test_a_stalled_request_is_dropped(server: str, begun: bytes):
    with connection(server) as connected:
        connected.sendall(begun)
        assert rest(connected) == b""


def test_nor_does_an_idle_connection_become_one_that_waits_for_ever(server: str):
    with connection(server) as connected:
        connected.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connected.recv(4096).startswith(b"HTTP/1.1 200")
        connected.sendall(b"\r\n")  # what stops uvicorn's own clock
        rest(connected)


def test_a_stalled_body_is_dropped(server: str):
    with connection(server) as connected:
        connected.sendall(post("/tower/tasks", 100, X_API_Key=KEY) + b'{"split"')
        assert rest(connected) == b""


def test_a_body_is_not_read_before_the_key_is_checked(server: str):
    for path in ("/tower/tasks", "/create_session", "/create", "/ping"):
        with connection(server) as connected:
            connected.sendall(post(path, LIMITS.max_request_bytes))
            assert connected.recv(4096).startswith(b"HTTP/1.1 401")


def test_a_header_section_without_end_is_refused(server: str):
    for field in (b"X-A: b\r\n", b"X-A: " + b"b" * 1000, b"GET /" + b"a" * 1000):
        with connection(server) as connected, contextlib.suppress(ConnectionError):
            connected.sendall(b"GET /health HTTP/1.1\r\n" if field.startswith(b"X") else b"")
            while True:
                connected.sendall(field * 10)
                connected.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    assert connected.recv(4096)[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400", b"")
                    break
                connected.settimeout(30)


def test_a_client_that_never_reads_is_disconnected(server: str):
    with httpx.Client(base_url=server, headers={"X-API-Key": KEY}, timeout=30) as http:
        sid = http.post("/create_session").text.split("data: ")[1].split()[0]
        headers = {"X-Session-ID": sid}
        http.post("/create", json={"split": "train", "index": 0}, headers=headers).raise_for_status()
        body = json.dumps({"name": "recite", "input": {}}).encode()
        with connection(server) as connected:
            connected.sendall(post("/tower/call", len(body), X_API_Key=KEY, X_Session_ID=sid) + body)
            assert connected.recv(100).startswith(b"HTTP/1.1 200")
            port = connected.getsockname()[1]
            wait_until(lambda: not _is_connected(server, port))
        assert "event: end" in http.post("/call", content=body, headers=headers).text  # the session lives on
        http.post("/delete", headers=headers)


def _is_connected(url: str, port: int) -> bool:
    """Whether the server still holds its end of the connection from a port."""
    ends = (f":{int(url.rpartition(':')[2]):04X}", f":{port:04X}")
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(ends[0]) and fields[2].endswith(ends[1]):
            return fields[9] != "0"  # the inode of a socket that a process holds
    return False


def test_a_head_is_answered(server: str):
    with connection(server) as connected:
        connected.sendall(b"HEAD /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        said = rest(connected)
    assert said.startswith(b"HTTP/1.1 200")
    assert said.endswith(b"\r\n\r\n")
