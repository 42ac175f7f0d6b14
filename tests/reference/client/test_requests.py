"""What is waited for, how long, and how many requests are under way."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ors_gym.client.client import ORSClient
from ors_gym.client.requests import status_error
from ors_gym.errors import AmbiguousCallError, CapacityError, NotFoundError, ProtocolError, StartingError, StatusError
from ors_gym.http.retry import backoff_seconds, retry_after_seconds
from tests.support.environments import Ledger
from tests.support.faulty_proxy import Fault, FaultyProxy, http_answer


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), ("2", 2), (" 1.5 ", 1.5), ("-3", 0), ("soon", None), ("", None), ("nan", None), ("inf", None)],
)
def test_retry_after_is_read_in_seconds(value, seconds):
    assert retry_after_seconds({"retry-after": value}) == seconds


def test_retry_after_is_read_as_a_date():
    in_a_minute = retry_after_seconds({"retry-after": formatdate(time.time() + 60, usegmt=True)})
    assert in_a_minute == pytest.approx(60, abs=5)
    assert retry_after_seconds({"retry-after": formatdate(time.time() - 60, usegmt=True)}) == 0


@given(st.integers(0, 10_000), st.floats(0.01, 10), st.floats(0.01, 100))
def test_waits_grow_to_a_limit_and_are_never_nothing(attempt, first, longest):
    assert 0 < backoff_seconds(attempt, first, longest) <= longest


@pytest.mark.parametrize(
    ("status", "starting", "error"),
    [(404, False, NotFoundError), (429, False, CapacityError), (503, True, StartingError), (503, False, StatusError)],
)
def test_a_status_has_one_name(status, starting, error):
    assert type(status_error(status, "why", starting=starting)) is error


def test_an_answer_that_is_not_http_names_its_source():
    async def conversation() -> None:
        plan = lambda request: Fault(answer=b"220 smtp ready\r\n\r\n")  # noqa: E731
        async with FaultyProxy("http://unused", plan) as proxy, ORSClient(proxy.url) as client:
            with pytest.raises(ProtocolError, match=f"GET {proxy.url}/health"):
                await client.health()

    asyncio.run(conversation())


@pytest.mark.parametrize("limit", [0, -1])
def test_no_connections_at_all_is_refused(limit):
    with pytest.raises(ValueError, match="max_connections"):
        ORSClient("http://localhost", max_connections=limit)


def test_more_sessions_than_open_files_wait_for_one_another(start_server):
    server = start_server(Ledger)
    script = textwrap.dedent(f"""
        import asyncio, resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        from ors_gym.client.client import ORSClient

        async def episode(client):
            async with client.session("ledger", task={{}}) as session:
                return (await session.call_tool("work", {{"key": "files", "seconds": 0.05}})).text

        async def main():
            async with ORSClient({server.url!r}) as client:
                print(set(await asyncio.gather(*(episode(client) for _ in range(150)))))

        asyncio.run(main())
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("{'done'}\n", "")
    assert server.live_sessions == {}


@pytest.mark.parametrize(
    ("fault", "ends"), [(Fault(cut_after=b"event: task_id"), "done"), (Fault(drop_answer=True), AmbiguousCallError)]
)
def test_a_call_over_httpx_is_resumed_and_left_alone_by_the_same_rules(start_server, fault, ends):
    import httpx

    server = start_server(Ledger)
    key = f"httpx {ends}"
    faults = [fault]

    async def conversation() -> None:
        plan = lambda request: faults.pop() if request.path.endswith("/call") and faults else None  # noqa: E731
        async with FaultyProxy(server.url, plan) as proxy:
            async with ORSClient(proxy.url, transport=httpx.AsyncHTTPTransport()) as client:
                async with client.session("ledger", task={}) as session:
                    if ends == "done":
                        assert (await session.call_tool("work", {"key": key})).text == "done"
                    else:
                        with pytest.raises(ends):
                            await session.call_tool("work", {"key": key})

    asyncio.run(conversation())
    assert Ledger.executions[key] == 1
    assert server.live_sessions == {}


def test_a_wait_requested_with_429_is_respected(start_server):
    server = start_server(Ledger)

    async def conversation() -> float:
        faults = [Fault(answer=http_answer("429 Full", b"", Retry_After="1"))]
        plan = lambda request: faults.pop() if faults else None  # noqa: E731
        async with FaultyProxy(server.url, plan) as proxy, ORSClient(proxy.url) as client:
            started = asyncio.get_running_loop().time()
            await client.list_environments()
            return asyncio.get_running_loop().time() - started

    assert asyncio.run(conversation()) >= 1.0  # never sooner than the server asked for
