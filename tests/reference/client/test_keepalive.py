"""Idle sessions are kept alive, busy ones are left alone, lost ones are known."""

from __future__ import annotations

import asyncio

import pytest

from ors_gym.client.client import ORSClient, SessionState
from ors_gym.client.keepalive import MAX_PINGS_AT_ONCE, Pinger
from ors_gym.errors import ConnectionLostError
from tests.support.environments import Ledger
from tests.support.faulty_proxy import FaultyProxy
from tests.support.ors_servers import server_loop


class Pinged:
    """A session that only counts."""

    def __init__(self) -> None:
        self.pings = 0
        self.changed = asyncio.Event()
        self.hold: asyncio.Event | None = None
        self.fault: Exception | None = None

    async def ping(self) -> None:
        self.pings += 1
        self.changed.set()
        if self.hold is not None:
            await self.hold.wait()
        if self.fault is not None:
            raise self.fault

    async def close(self) -> None:
        raise AssertionError("a pinger closes nothing")

    async def reach(self, pings: int) -> None:
        while self.pings < pings:
            self.changed.clear()
            async with asyncio.timeout(10):
                await self.changed.wait()


def test_an_idle_session_is_pinged_again_and_again_until_it_is_removed():
    async def conversation() -> None:
        pinger, session = Pinger(0.01), Pinged()
        pinger.touch(session)
        await session.reach(3)
        pinger.remove(session)
        assert pinger.sessions == ()
        await pinger.aclose()

    asyncio.run(conversation())


def test_a_session_with_traffic_is_not_pinged():
    async def conversation() -> None:
        pinger, busy, idle = Pinger(0.2), Pinged(), Pinged()
        pinger.touch(idle)
        while idle.pings < 2:
            pinger.touch(busy)
            await asyncio.sleep(0)
        assert busy.pings == 0
        await pinger.aclose()

    asyncio.run(conversation())


def test_a_ping_that_fails_is_tried_again_at_the_next_interval():
    async def conversation() -> None:
        pinger, session = Pinger(0.01), Pinged()
        session.fault = ConnectionLostError("cut")
        pinger.touch(session)
        await session.reach(3)
        await pinger.aclose()

    asyncio.run(conversation())


def test_pings_are_sent_at_once_but_not_all_at_once():
    async def conversation() -> None:
        pinger, hold = Pinger(0.01), asyncio.Event()
        sessions = [Pinged() for _ in range(2 * MAX_PINGS_AT_ONCE)]
        for session in sessions:
            session.hold = hold
            pinger.touch(session)
        await sessions[MAX_PINGS_AT_ONCE - 1].reach(1)
        assert sum(session.pings for session in sessions) == MAX_PINGS_AT_ONCE
        hold.set()
        await sessions[-1].reach(1)
        await pinger.aclose()

    asyncio.run(conversation())


def test_one_slow_ping_does_not_hold_up_the_others():
    async def conversation() -> None:
        pinger, slow, quick = Pinger(0.01), Pinged(), Pinged()
        slow.hold = asyncio.Event()
        pinger.touch(slow)
        pinger.touch(quick)
        await quick.reach(3)
        await pinger.aclose()

    asyncio.run(conversation())


def test_a_lost_session_is_known_after_its_next_ping_without_a_call(start_server):
    server = start_server(Ledger)

    async def conversation() -> None:
        async with FaultyProxy(server.url) as proxy, ORSClient(proxy.url, ping_seconds=0.05) as client:
            async with client.session("ledger", task={}) as session:
                while not proxy.count("/ping"):
                    await asyncio.sleep(0.005)
                assert session.state is SessionState.OPEN
                server_loop().loop.call_soon_threadsafe(server.forget, session.id)
                async with asyncio.timeout(10):
                    while session.state is SessionState.OPEN:
                        await asyncio.sleep(0.005)
                assert session.state is SessionState.LOST
                assert client.connection.pinger.sessions == ()

    asyncio.run(conversation())


def test_a_session_is_kept_alive_while_a_long_call_runs(start_server):
    server = start_server(Ledger)

    async def conversation() -> None:
        async with FaultyProxy(server.url) as proxy, ORSClient(proxy.url, ping_seconds=0.05) as client:
            async with client.session("ledger", task={}) as session:
                call = asyncio.create_task(session.call_tool("work", {"key": "long", "held": True}))
                while proxy.count("/ping") < 2:
                    await asyncio.sleep(0.005)
                server_loop().loop.call_soon_threadsafe(Ledger.released["long"].set)
                assert (await call).text == "done"

    asyncio.run(conversation())


def test_the_interval_must_be_positive():
    with pytest.raises(ValueError, match="ping_seconds"):
        ORSClient("http://localhost", ping_seconds=0)
