"""The server as a process: where it listens, and how it stops."""

from __future__ import annotations

import contextlib
import functools
import gc
import signal
import socket
import sys

import httpx
import pytest
import uvicorn

from ors_gym_server import serve
from tests.support.programs import running_server
from tests.support.server_environments import Forge

kiln = functools.partial(running_server, "tests.support.server_process")


def opened(http: httpx.Client, index: int) -> dict[str, str]:
    answer = http.post("/create_session")
    headers = {"X-Session-ID": answer.text.split("data: ")[1].split()[0]}
    http.post("/create", json={"split": "train", "index": index}, headers=headers).raise_for_status()
    return headers


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_stopping_server_lets_calls_end_and_tears_every_session_down(sent: signal.Signals):
    with (
        kiln(20) as (process, url),
        httpx.Client(base_url=url, timeout=30) as http,
    ):
        opened(http, 1)
        headers = opened(http, 0)
        with http.stream("POST", "/call", json={"name": "burn", "input": {}}, headers=headers) as answer:
            assert process.stdout is not None
            assert process.stdout.readline() == "burning\n"
            process.send_signal(sent)
            text = answer.read().decode()
        assert "burnt" in text
        said, failed = process.communicate(timeout=30)
    assert sorted(said.split("\n")) == ["", "teardown 0", "teardown 1"]
    assert "Traceback" not in failed


def test_a_call_that_does_not_end_is_ended_when_the_time_to_drain_is_over():
    with kiln(0.5) as (process, url), httpx.Client(base_url=url, timeout=30) as http:
        headers = opened(http, 0)
        with contextlib.suppress(httpx.RemoteProtocolError):
            with http.stream("POST", "/call", json={"name": "smoulder", "input": {}}, headers=headers) as answer:
                assert process.stdout is not None
                assert process.stdout.readline() == "smouldering\n"
                process.terminate()
                answer.read()
        said, _ = process.communicate(timeout=30)
    assert said == "teardown 0\n"


def test_a_second_ctrl_c_ends_the_calls_at_once_and_still_tears_every_session_down():
    with (
        kiln(60) as (process, url),
        httpx.Client(base_url=url, timeout=30) as http,
    ):
        headers = opened(http, 0)
        with contextlib.suppress(httpx.RemoteProtocolError):
            with http.stream("POST", "/call", json={"name": "smoulder", "input": {}}, headers=headers) as answer:
                assert process.stdout is not None
                assert process.stdout.readline() == "smouldering\n"
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(httpx.TransportError):  # refused, or reset
                    while True:  # until the first signal has closed the door
                        httpx.get(f"{url}/health")
                process.send_signal(signal.SIGINT)
                answer.read()
        said, _ = process.communicate(timeout=30)
    assert said == "teardown 0\n"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_other_machines_are_let_in_only_with_a_key_or_by_will(host: str):
    with pytest.raises(ValueError, match="open_to_all=True if that is meant"):
        serve([Forge], host=host)


def test_an_address_that_is_taken_is_an_error_and_not_an_exit():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            serve([Forge], port=taken.getsockname()[1])


@pytest.mark.parametrize("port", [-1, 65_536, 99_999])
def test_an_impossible_port_is_refused(port: int):
    with pytest.raises(ValueError, match=f"from 0 to 65535, not {port}"):
        serve([Forge], port=port)


def test_what_serve_changes_of_the_process_is_put_back(monkeypatch: pytest.MonkeyPatch):
    before = (sys.getswitchinterval(), gc.get_threshold())
    seen: list[tuple[object, object]] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_: seen.append((sys.getswitchinterval(), gc.get_threshold())))
    serve([Forge], port=0)
    assert seen[0] != before
    assert (sys.getswitchinterval(), gc.get_threshold()) == before
