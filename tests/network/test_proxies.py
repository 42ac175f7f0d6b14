"""The client through nginx, haproxy, caddy, varnish and squid: `make test-network`."""

from __future__ import annotations

import asyncio
import contextlib
import uuid

import pytest

from ors_gym.client.client import ORSClient, Timeouts
from ors_gym.errors import StatusError
from tests.network.proxies import running
from tests.support.environments import Counter, Ledger
from tests.support.ors_servers import serve

MEMBERS = 16
PROXIES = ("nginx", "haproxy", "caddy", "varnishd", "squid")


@pytest.fixture(scope="module")
def servers():
    with serve(Counter, Ledger) as first, serve(Counter, Ledger) as second:
        yield first, second
        assert (first.live_sessions, second.live_sessions) == ({}, {})


@pytest.fixture
def through(servers, monkeypatch):
    """Start a proxy; gives the URL and the options of the client."""
    with contextlib.ExitStack() as stack:

        def start(program: str, *, balanced: bool = False, read_seconds: int = 60) -> str:
            urls = [server.url for server in (servers if balanced else servers[:1])]
            try:
                url = stack.enter_context(running(program, *urls, read_seconds=read_seconds)).url
            except FileNotFoundError as missing:
                pytest.skip(str(missing))
            if program == "squid":
                for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
                    monkeypatch.delenv(name, raising=False)
                monkeypatch.setenv("http_proxy", url)
                return urls[0].replace("127.0.0.1", "ors.test")
            return f"{url}/ors" if program in ("nginx", "caddy") else url

        yield start


async def count_to(client: ORSClient, index: int) -> float | None:
    async with client.session("counter", split="train", index=index) as session:
        (prompt,) = await session.get_prompt()
        assert prompt.text == f"Count to {index + 1}."
        output = await session.call_tool("add", {"amount": index + 1})
        assert output.finished
        return output.reward


@pytest.mark.parametrize("program", PROXIES)
def test_episodes_are_played_and_each_session_reads_its_own_prompt(through, program):
    async def conversation() -> None:
        async with ORSClient(through(program)) as client:
            rewards = await asyncio.gather(*(count_to(client, number % 5) for number in range(MEMBERS)))
            assert rewards == [1.0] * MEMBERS

    asyncio.run(asyncio.wait_for(conversation(), 100))


@pytest.mark.parametrize("program", ["nginx", "haproxy", "caddy"])
def test_sessions_stay_on_their_server_behind_a_balancer(through, servers, program):
    async def conversation() -> None:
        async with ORSClient(through(program, balanced=True)) as client:
            rewards = await asyncio.gather(*(count_to(client, number % 5) for number in range(MEMBERS)))
            assert rewards == [1.0] * MEMBERS

    asyncio.run(asyncio.wait_for(conversation(), 100))


@pytest.mark.parametrize("program", PROXIES)
def test_three_megabytes_come_back_whole(through, program):
    text = "0123456789abcdef" * 4096  # of the tool's input; the answer repeats it

    async def conversation() -> None:
        async with ORSClient(through(program)) as client:
            async with client.session("counter", split="train", index=0) as session:
                for _ in range(3):
                    assert (await session.call_tool("echo", {"text": text * 12})).text == text * 12

    asyncio.run(asyncio.wait_for(conversation(), 100))


@pytest.mark.parametrize("program", ["nginx", "haproxy", "caddy"])
def test_a_call_that_a_proxy_cuts_is_resumed_and_runs_once(through, program):
    key = uuid.uuid4().hex

    async def conversation() -> None:
        async with ORSClient(through(program, read_seconds=2)) as client:
            async with client.session("ledger", split="train", index=0) as session:
                assert (await session.call_tool("work", {"key": key, "seconds": 7.0})).text == "done"

    asyncio.run(asyncio.wait_for(conversation(), 100))
    assert Ledger.executions[key] == 1


def test_an_input_larger_than_nginx_takes_is_an_observation(through):
    async def conversation() -> None:
        async with ORSClient(through("nginx")) as client:
            async with client.session("counter", split="train", index=0) as session:
                output = await session.call_tool("echo", {"text": "x" * 1_200_000})
                assert (output.ok, output.reason) == (False, "input_validation")
                assert "413 Request Entity Too Large" in output.text
                assert (await session.call_tool("look")).ok

    asyncio.run(asyncio.wait_for(conversation(), 100))


def test_secrets_larger_than_a_header_reach_the_environment(through):
    async def conversation() -> None:
        async with ORSClient(through("nginx")) as client:
            with pytest.raises(StatusError, match="Header Or Cookie Too Large"):  # the reference takes no other way
                await client.session("counter", split="train", index=0, secrets={"K": "s" * 9000}).open()

    asyncio.run(asyncio.wait_for(conversation(), 100))


def test_an_unstripped_prefix_is_reported(through):
    async def conversation() -> None:
        url = through("nginx").replace("/ors", "/unstripped")
        async with ORSClient(url) as client:
            with pytest.raises(StatusError, match=r"404|405|308"):
                await client.list_environments()

    asyncio.run(asyncio.wait_for(conversation(), 100))


def test_a_server_that_squid_cannot_reach_is_named_with_the_title_of_its_page(through):
    async def conversation() -> None:
        through("squid")
        async with ORSClient("http://ors.test:9", timeouts=Timeouts(starting_seconds=1)) as client:
            with pytest.raises(StatusError, match=r"503: a page titled 'ERROR"):
                await client.list_environments()

    asyncio.run(asyncio.wait_for(conversation(), 100))
