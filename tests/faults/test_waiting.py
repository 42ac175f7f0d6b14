"""A server that is starting or full is waited for; a refused call is not repeated."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from ors_gym.client.client import ORSClient, Timeouts
from ors_gym.errors import (
    CapacityError,
    StartingError,
    StatusError,
)
from tests.support.environments import Ledger
from tests.support.faulty_proxy import Fault, FaultyProxy, http_answer
from tests.support.ledger_calls import on_call, play

STARTING = http_answer("503 Service Unavailable", b"", X_Backend_State="starting", Retry_After="0")


@pytest.mark.parametrize("path", ["/create_session", "/create", "/prompt", "/call"])
@pytest.mark.parametrize("answer", [STARTING, http_answer("429 Too Many Requests", b"", Retry_After="0")])
def test_a_starting_or_full_server_is_waited_for(ledger, path, answer):
    key = uuid.uuid4().hex

    async def conversation() -> int:
        plan = on_call(Fault(answer=answer), times=6, path=path)
        async with FaultyProxy(ledger.url, plan) as proxy, ORSClient(proxy.url) as client:
            async with client.session("ledger", split="train", index=0) as session:
                await session.get_prompt()
                assert (await session.call_tool("work", {"key": key})).text == "done"
            return proxy.count(path)

    assert asyncio.run(conversation()) == 7
    assert Ledger.executions[key] == 1


@pytest.mark.parametrize(
    ("answer", "error"), [(STARTING, StartingError), (http_answer("429 Full", b"", Retry_After="0"), CapacityError)]
)
def test_waiting_has_a_limit_and_leaves_the_session_open(ledger, answer, error):
    timeouts = Timeouts(starting_seconds=0.2, capacity_seconds=0.2)
    outcome, proxy = asyncio.run(
        play(ledger.url, on_call(Fault(answer=answer), times=1000), key="waiting", timeouts=timeouts)
    )
    assert isinstance(outcome, error)
    assert outcome.may_have_run is False
    assert proxy.count("/call") > 1


def test_waiting_can_be_cancelled(ledger):
    answer = http_answer("503 Service Unavailable", b"", X_Backend_State="starting", Retry_After="3600")

    async def conversation() -> None:
        plan = on_call(Fault(answer=answer), times=1000)
        async with FaultyProxy(ledger.url, plan) as proxy, ORSClient(proxy.url) as client:
            async with client.session("ledger", split="train", index=0) as session:
                call = asyncio.create_task(session.call_tool("work", {"key": "never"}))
                while not proxy.count("/call"):
                    await asyncio.sleep(0)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call

    asyncio.run(conversation())
    assert Ledger.executions["never"] == 0


@pytest.mark.parametrize("status", [400, 401, 403, 405])
def test_a_refused_call_is_not_sent_again_and_leaves_the_session_open(ledger, status):
    async def conversation() -> None:
        plan = on_call(Fault(answer=http_answer(f"{status} No", b'{"detail":"not like that"}')))
        async with FaultyProxy(ledger.url, plan) as proxy, ORSClient(proxy.url) as client:
            async with client.session("ledger", split="train", index=0) as session:
                with pytest.raises(StatusError, match="not like that") as caught:
                    await session.call_tool("work", {"key": "refused"})
                assert caught.value.status == status
                assert caught.value.may_have_run is False
                assert proxy.count("/call") == 1
                assert (await session.call_tool("work", {"key": "afterwards"})).text == "done"

    asyncio.run(conversation())
    assert Ledger.executions["refused"] == 0


@pytest.mark.parametrize("status", [413, 422])
def test_an_input_that_a_server_or_proxy_does_not_take_is_an_observation(ledger, status):
    async def conversation() -> None:
        plan = on_call(Fault(answer=http_answer(f"{status} No", b"<html><title>Too Large</title></html>")))
        async with FaultyProxy(ledger.url, plan) as proxy, ORSClient(proxy.url) as client:
            async with client.session("ledger", split="train", index=0) as session:
                output = await session.call_tool("work", {"key": "too large"})
                assert (output.ok, output.reason) == (False, "input_validation")
                assert "Too Large" in output.text
                assert (await session.call_tool("work", {"key": "afterwards"})).text == "done"

    asyncio.run(conversation())
    assert Ledger.executions["too large"] == 0
