"""What a session does when the wire or the server breaks: every session is deleted."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ors_gym.client.client import ORSClient, Timeouts
from ors_gym.errors import (
    StatusError,
)
from tests.support.environments import Ledger
from tests.support.faulty_proxy import Fault, FaultyProxy
from tests.support.ledger_calls import on_call


@pytest.mark.parametrize("reset", [False, True])
def test_a_session_whose_creation_was_answered_in_vain_is_found_and_used(ledger, reset):
    async def conversation() -> None:
        plan = on_call(Fault(drop_answer=True, reset=reset), path="/create")
        async with FaultyProxy(ledger.url, plan) as proxy, ORSClient(proxy.url) as client:
            async with client.session("ledger", split="train", index=0) as session:
                assert list(ledger.live_sessions) == [session.id]
                assert proxy.count("/create") == 1
                assert (await session.call_tool("work", {"key": "found"})).text == "done"

    asyncio.run(conversation())


def test_a_creation_that_never_reached_the_server_is_made_under_another_id(ledger):
    async def conversation() -> None:
        plan = on_call(Fault(refuse=True), path="/create")
        async with FaultyProxy(ledger.url, plan) as proxy, ORSClient(proxy.url) as client:
            async with client.session("ledger", split="train", index=0):
                assert proxy.count("/create") == 2
                assert len(ledger.live_sessions) == 1

    asyncio.run(conversation())


def test_deleting_a_creation_that_was_given_up_spares_the_one_that_replaced_it(ledger, monkeypatch):
    monkeypatch.setattr("ors_gym.client.connection.DELAYS_SECONDS", (0.0, 0.01))

    async def conversation() -> None:
        plan = on_call(Fault(refuse=True), path="/create")
        async with FaultyProxy(ledger.url, plan) as proxy, ORSClient(proxy.url) as client:
            async with client.session("ledger", task={}) as session:
                async with asyncio.timeout(10):
                    while not proxy.count("/delete_session"):
                        await asyncio.sleep(0.005)
                assert session.id in ledger.live_sessions
                buried = [request for request in proxy.requests if request.path.startswith("/delete")]
                assert all(session.id.encode() not in request.head for request in buried)

    asyncio.run(conversation())


def test_a_refused_creation_is_not_looked_for(ledger):
    async def conversation() -> list[str]:
        async with FaultyProxy(ledger.url) as proxy, ORSClient(proxy.url) as client:
            with pytest.raises(StatusError, match="Invalid index"):
                await client.session("ledger", split="train", index=99).open()
            await client.aclose()
            return [request.path for request in proxy.requests]

    asked = ["/list_environments", "/create_session", "/create"]
    assert asyncio.run(conversation()) == [*asked, "/delete", "/delete_session"]


def test_a_cancelled_opening_leaves_no_session_although_the_server_creates_it_later(ledger):
    async def conversation() -> None:
        Ledger.open_gate = threading.Event()
        before = Ledger.constructions
        async with ORSClient(ledger.url) as client:
            opening = asyncio.create_task(client.session("ledger", split="train", index=1).open())
            while Ledger.constructions == before:
                await asyncio.sleep(0)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            Ledger.open_gate.set()
            while not ledger.live_sessions:
                await asyncio.sleep(0)

    try:
        asyncio.run(conversation())
    finally:
        Ledger.open_gate = None


def test_a_refused_creation_says_why_and_leaves_nothing(ledger):
    async def conversation() -> None:
        async with ORSClient(ledger.url) as client:
            with pytest.raises(StatusError, match="Invalid index"):
                async with client.session("ledger", split="train", index=99):
                    raise AssertionError("opened")
            with pytest.raises(StatusError, match="Invalid split"):
                await client.session("ledger", split="dev", index=0).open()

    asyncio.run(conversation())


@pytest.mark.parametrize("how", ["error", "cancel", "interrupt"])
def test_a_session_is_deleted_however_its_block_ends(ledger, how):
    async def conversation() -> None:
        async with ORSClient(ledger.url) as client, client.session("ledger", split="train", index=0):
            assert len(ledger.live_sessions) == 1
            if how == "error":
                raise RuntimeError("mine")
            if how == "interrupt":
                raise KeyboardInterrupt
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.Event().wait()

    ends = {"error": RuntimeError, "cancel": asyncio.CancelledError, "interrupt": KeyboardInterrupt}
    with pytest.raises(ends[how]):
        asyncio.run(conversation())


def test_a_client_that_closes_deletes_the_sessions_that_are_left(ledger):
    async def conversation() -> None:
        async with ORSClient(ledger.url) as client:
            await asyncio.gather(*(client.session("ledger", split="train", index=0).open() for _ in range(5)))
            assert len(ledger.live_sessions) == 5

    asyncio.run(conversation())


def test_closing_survives_a_cut_answer(ledger):
    async def conversation() -> None:
        plan = on_call(Fault(drop_answer=True), path="/delete")
        async with FaultyProxy(ledger.url, plan) as proxy, ORSClient(proxy.url) as client:
            async with client.session("ledger", split="train", index=0):
                pass
            assert proxy.count("/delete") == 2

    asyncio.run(conversation())


def test_a_client_that_closes_does_not_wait_for_ever_for_a_silent_server(ledger, caplog):
    async def conversation() -> None:
        plan = on_call(Fault(silent=True), times=100, path="/delete")
        async with FaultyProxy(ledger.url, plan) as proxy:
            async with asyncio.timeout(10), ORSClient(proxy.url, timeouts=Timeouts(close_seconds=0.3)) as client:
                for _ in range(3):
                    await client.session("ledger", task={}).open()

    asyncio.run(conversation())
    assert "not deleted" in caplog.text or "did not end in time" in caplog.text
