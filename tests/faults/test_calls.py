"""What a call does when the wire or the server breaks: its tool runs at most once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Iterator

import pytest
from openreward.environments import Server

from ors_gym.client.client import ORSClient, SessionState, Timeouts
from ors_gym.errors import (
    AmbiguousCallError,
    CallTimeoutError,
    ConnectError,
    ORSError,
    ProtocolError,
    SessionLostError,
    ToolFailedError,
)
from tests.support.environments import Ledger
from tests.support.faulty_proxy import Fault, FaultyProxy, http_answer
from tests.support.ledger_calls import QUICK, on_call, play
from tests.support.named_tasks import NamedTasks
from tests.support.ors_servers import RunningServer, free_port, serve, serve_app, server_loop


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("reset", [False, True])
def test_a_call_cut_after_its_task_id_is_resumed_and_runs_once(ledger, times, reset):
    key = uuid.uuid4().hex
    plan = on_call(Fault(cut_after=b"event: task_id", reset=reset), times=times)
    outcome, proxy = asyncio.run(play(ledger.url, plan, key=key))
    assert outcome == "done"
    assert Ledger.executions[key] == 1
    assert proxy.count("/call") == times + 1


@pytest.mark.parametrize("cut_at", [130, 4000, 5000, 9000, 12000])
def test_a_call_cut_inside_its_chunks_is_resumed_and_its_text_arrives_whole(ledger, cut_at):
    key, text = uuid.uuid4().hex, "    indented\n" * 1500
    outcome, _ = asyncio.run(play(ledger.url, on_call(Fault(cut_at=cut_at)), key=key, text=text))
    assert outcome == text
    assert Ledger.executions[key] == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(drop_answer=True),
        Fault(drop_answer=True, reset=True),
        Fault(refuse=True),
        Fault(cut_at=10),
        Fault(answer=http_answer("502 Bad Gateway", b"upstream went away")),
        Fault(answer=http_answer("504 Gateway Timeout")),
        Fault(answer=http_answer("503 Service Unavailable", b"no backend")),
    ],
    ids=["answer lost", "answer reset", "cut before the server", "cut inside task_id", "502", "504", "503"],
)
def test_a_call_whose_answer_never_began_is_not_sent_again(ledger, fault):
    key = uuid.uuid4().hex
    outcome, proxy = asyncio.run(play(ledger.url, on_call(fault), key=key))
    assert isinstance(outcome, AmbiguousCallError)
    assert outcome.may_have_run is True
    assert outcome.tool == "work"
    assert outcome.session_id in str(outcome)
    assert "may have run" in str(outcome)
    assert proxy.count("/call") == 1
    assert Ledger.executions[key] <= 1


def test_a_call_that_stays_silent_before_its_task_id_is_not_sent_again(ledger):
    key = uuid.uuid4().hex
    outcome, proxy = asyncio.run(play(ledger.url, on_call(Fault(silent=True)), key=key, timeouts=QUICK))
    assert isinstance(outcome, AmbiguousCallError)
    assert "silent for 0.4 s" in str(outcome)
    assert proxy.count("/call") == 1
    assert Ledger.executions[key] == 1


def test_a_silent_stream_is_left_and_resumed_without_running_the_tool_again(ledger):
    key = uuid.uuid4().hex
    plan = on_call(Fault(stall_after=b"event: task_id"), times=2)
    outcome, proxy = asyncio.run(play(ledger.url, plan, key=key, timeouts=QUICK))
    assert outcome == "done"
    assert Ledger.executions[key] == 1
    assert proxy.count("/call") == 3


def test_a_server_held_up_by_another_session_is_not_sent_the_call_again(ledger):
    key, blocked = uuid.uuid4().hex, uuid.uuid4().hex

    async def conversation() -> str:
        async with FaultyProxy(ledger.url) as proxy, ORSClient(proxy.url, timeouts=QUICK) as client:
            async with client.session("ledger", task={}) as session, client.session("ledger", task={}) as other:
                call = asyncio.create_task(session.call_tool("work", {"key": key, "held": True}))
                await asyncio.to_thread(Ledger.started[key].wait, 10)
                work = {"key": blocked, "seconds": 3 * QUICK.silence_seconds}
                block = asyncio.create_task(other.call_tool("block", work))
                await asyncio.to_thread(Ledger.started[blocked].wait, 10)
                server_loop().loop.call_soon_threadsafe(Ledger.released[key].set)
                await asyncio.gather(block, return_exceptions=True)
                assert proxy.count("/call") > 2  # the silence was noticed
                return (await call).text

    assert asyncio.run(conversation()) == "done"
    assert Ledger.executions[key] == 1


def test_a_call_that_cannot_be_regained_ends_within_its_limit_and_ran_once(ledger):
    key = uuid.uuid4().hex
    timeouts = Timeouts(resume_seconds=0.5)
    plan = on_call(Fault(cut_after=b"event: task_id"), times=100)
    outcome, proxy = asyncio.run(play(ledger.url, plan, key=key, timeouts=timeouts))
    assert isinstance(outcome, AmbiguousCallError)
    assert 2 <= proxy.count("/call") <= 21  # progress in between does not reset the count
    assert Ledger.executions[key] == 1


def test_nothing_listening_means_that_the_call_did_not_run(ledger):
    key = uuid.uuid4().hex

    async def conversation() -> ORSError:
        async with FaultyProxy(ledger.url) as proxy, ORSClient(proxy.url) as client:
            async with client.session("ledger", task={}) as session:
                await proxy.stop()
                while (
                    client.connection.sender.transport._open  # type: ignore[attr-defined]
                ):  # until the client has seen that its connections are gone
                    await asyncio.sleep(0)
                with pytest.raises(ConnectError) as caught:
                    await session.call_tool("work", {"key": key})
                await proxy.start(proxy.port)
                assert session.state is SessionState.OPEN
                assert (await session.call_tool("work", {"key": key})).text == "done"
                return caught.value

    error = asyncio.run(conversation())
    assert error.may_have_run is False
    assert "did not run" in str(error)
    assert Ledger.executions[key] == 1


def test_a_server_restarted_during_a_call_loses_the_session_at_once():
    key = uuid.uuid4().hex

    async def conversation(first: RunningServer, port: int) -> None:
        async with ORSClient(first.url) as client, client.session("ledger", split="train", index=0) as session:
            call = asyncio.create_task(session.call_tool("work", {"key": key, "held": True}))
            await asyncio.to_thread(Ledger.started[key].wait, 10)
            await asyncio.to_thread(stack.close)
            with serve(Ledger, port=port):
                with pytest.raises(SessionLostError) as caught:
                    await call
                assert caught.value.may_have_run is True
                assert session.state is SessionState.LOST
                with pytest.raises(SessionLostError):
                    await session.call_tool("work", {"key": key})

    port = free_port()
    with contextlib.ExitStack() as stack:
        asyncio.run(conversation(stack.enter_context(serve(Ledger, port=port)), port))
    server_loop().loop.call_soon_threadsafe(Ledger.released[key].set)
    assert Ledger.executions[key] == 1


@pytest.mark.parametrize("ask", ["call", "ping", "prompt", "messages"])
def test_a_session_that_vanished_is_lost_at_the_next_request(ledger, ask):
    async def conversation() -> None:
        async with ORSClient(ledger.url) as client, client.session("ledger", split="train", index=0) as session:
            ledger.forget(session.id)
            requests = {
                "call": lambda: session.call_tool("work", {"key": "vanished"}),
                "ping": session.ping,
                "prompt": session.get_prompt,
                "messages": session.get_messages,
            }
            with pytest.raises(SessionLostError) as caught:
                await requests[ask]()
            assert caught.value.session_id == session.id
            assert session.state is SessionState.LOST

    asyncio.run(conversation())
    assert Ledger.executions["vanished"] == 0


def test_a_cancelled_call_gives_the_session_up_and_deletes_it(ledger):
    key = uuid.uuid4().hex

    async def conversation() -> None:
        async with ORSClient(ledger.url) as client, client.session("ledger", split="train", index=0) as session:
            call = asyncio.create_task(session.call_tool("work", {"key": key, "held": True}))
            await asyncio.to_thread(Ledger.started[key].wait, 10)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert session.state is SessionState.LOST
            with pytest.raises(SessionLostError, match="given up by the caller"):
                await session.call_tool("work", {"key": "after"})
            await session.close()
            assert session.id not in ledger.live_sessions

    asyncio.run(conversation())
    server_loop().loop.call_soon_threadsafe(Ledger.released[key].set)
    assert Ledger.executions["after"] == 0


def test_a_call_over_its_time_gives_the_session_up(ledger):
    key = uuid.uuid4().hex

    async def conversation() -> None:
        timeouts = Timeouts(call_seconds=0.3)
        async with ORSClient(ledger.url, timeouts=timeouts) as client:
            async with client.session("ledger", split="train", index=0) as session:
                with pytest.raises(CallTimeoutError) as caught:
                    await session.call_tool("work", {"key": key, "held": True})
                assert caught.value.may_have_run is True
                assert session.state is SessionState.LOST

    asyncio.run(conversation())
    server_loop().loop.call_soon_threadsafe(Ledger.released[key].set)
    assert Ledger.executions[key] == 1


def test_a_tool_that_raises_leaves_its_session_open(ledger):
    async def conversation() -> None:
        async with ORSClient(ledger.url) as client, client.session("ledger", split="train", index=0) as session:
            with pytest.raises(ToolFailedError) as caught:
                await session.call_tool("reveal")
            assert "the secrets are {}" in str(caught.value)
            assert caught.value.tool == "reveal"
            assert (await session.call_tool("work", {"key": "after"})).text == "done"

    asyncio.run(conversation())


def test_a_tool_that_raises_cancelled_error_does_not_hang_the_call(ledger):
    async def conversation() -> None:
        timeouts = Timeouts(call_seconds=1.0)
        async with ORSClient(ledger.url, timeouts=timeouts) as client:
            async with client.session("ledger", split="train", index=0) as session:
                with pytest.raises((CallTimeoutError, ToolFailedError)):
                    await session.call_tool("cancelled")

    asyncio.run(conversation())


# ------------------------------------------------------------------- answers that are no ORS


@pytest.mark.parametrize(
    ("rewrite", "says"),
    [
        ((b'"ok":true', b'"ok:true'), "expected JSON"),
        ((b'"ok":true', b'"so":true'), "'ok'"),
        ((b'"output":', b'"putout":'), "'output'"),
        ((b'"blocks":', b'"stocks":'), "'blocks'"),
        ((b'"reward":1.0', b'"reward":"1"'), "reward"),
        ((b'"reward":1.0', b'"reward":NaN'), "finite"),
        ((b'"type":"text"', b'"type":"test"'), "unknown block type"),
        ((b'"text":"done"', b'"text":"\xff\xfe!!"'), "UTF-8"),
    ],
)
def test_a_malformed_result_is_a_protocol_error_that_says_where(ledger, rewrite, says):
    outcome, proxy = asyncio.run(play(ledger.url, on_call(Fault(rewrite=rewrite)), key="malformed"))
    assert isinstance(outcome, ProtocolError)
    assert says in str(outcome)
    assert f"POST {proxy.url}/ledger/call" in str(outcome)
    assert outcome.session_id in str(outcome)
    assert outcome.tool == "work"
    assert outcome.may_have_run is True


def test_lines_without_a_colon_are_passed_over_as_the_standard_says(ledger):
    fault = Fault(rewrite=(b"event: end", b"garbage\r\nevent:end"))
    answer = http_answer(
        "200 OK",
        b'event: task_id\r\ndata: t\r\n\r\ngarbage\r\nevent: end\r\ndata: {"ok":false,"error":"no"}\r\n\r\n',
        Content_Type="text/event-stream",
    )
    assert fault.rewrite is not None
    outcome, _ = asyncio.run(play(ledger.url, on_call(Fault(answer=answer)), key="colon"))
    assert outcome == "no"


def test_a_page_in_place_of_an_event_stream_is_a_protocol_error(ledger):
    answer = http_answer("200 OK", b"<html>please log in</html>", Content_Type="text/html")
    outcome, _ = asyncio.run(play(ledger.url, on_call(Fault(answer=answer)), key="page"))
    assert isinstance(outcome, ProtocolError)
    assert "expected an event stream, got text/html" in str(outcome)


def test_an_answer_that_is_not_http_is_a_protocol_error(ledger):
    outcome, _ = asyncio.run(play(ledger.url, on_call(Fault(answer=b"220 smtp ready\r\n\r\n")), key="smtp"))
    assert isinstance(outcome, ORSError)
    assert "no HTTP" in str(outcome)
    assert outcome.may_have_run is True


def test_an_error_message_of_one_megabyte_arrives_whole(ledger):
    message = b"x" * (1 << 20)
    body = b"event: task_id\r\ndata: t\r\n\r\nevent: error\r\ndata: " + message + b"\r\n\r\n"
    answer = http_answer("200 OK", body, Content_Type="text/event-stream")
    outcome, _ = asyncio.run(play(ledger.url, on_call(Fault(answer=answer)), key="long"))
    assert isinstance(outcome, ToolFailedError)
    assert outcome.message == message.decode()


# ------------------------------------------------------------------- exactly once, where the server allows it


@pytest.fixture(scope="module")
def naming_server() -> Iterator[RunningServer]:
    """The reference server, made to let clients choose the ``task_id`` of a first call."""
    server = Server([Ledger])
    with serve_app(NamedTasks(server.app), server=server) as running:
        yield running
        assert running.live_sessions == {}


@pytest.mark.parametrize(
    "fault",
    [
        Fault(drop_answer=True),
        Fault(refuse=True, reset=True),
        Fault(cut_at=10),
        Fault(stall_after=b"event: task_id"),
        Fault(answer=http_answer("502 Bad Gateway")),
    ],
    ids=["answer lost", "cut before the server", "cut inside task_id", "silent", "502"],
)
@pytest.mark.parametrize("times", [1, 3])
def test_a_call_that_the_client_may_name_is_sent_again_and_runs_exactly_once(naming_server, fault, times):
    key = uuid.uuid4().hex
    outcome, proxy = asyncio.run(play(naming_server.url, on_call(fault, times=times), key=key, timeouts=QUICK))
    assert outcome == "done"
    assert Ledger.executions[key] == 1
    calls = [json.loads(request.body) for request in proxy.requests if request.path.endswith("/call")]
    assert len(calls) == times + 1
    assert len({call["task_id"] for call in calls}) == 1
