"""Whatever a server sends: an episode is played, read leniently, or fails with an error of ours."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ors_gym.client.client import ORSClient, Timeouts
from ors_gym.errors import ORSError, ProtocolError, StatusError
from ors_gym.http import transport
from ors_gym.http.retry import retry_after_seconds
from ors_gym.reporting.records import TrajectoryWriter, read_trajectories
from ors_gym.trajectory import Exchange, Reply, StopReason, TaskRef, Trajectory, Transition
from ors_gym.types import (
    GroupScore,
    Message,
    Split,
    ToolCall,
    ToolList,
    ToolOutput,
)
from ors_gym.types.messages import (
    block_to_wire,
    blocks_from_wire,
)
from tests.support.scripted_server import ScriptedORS, endless, events, http, json_answer

QUICK = Timeouts(
    request_seconds=5, first_event_seconds=5, silence_seconds=5, resume_seconds=1, starting_seconds=0.2,
    capacity_seconds=0.2, close_seconds=2, call_seconds=10,
)  # fmt: skip

CALL_WITH_A_NUMBER = {"type": "tool_call", "id": "1", "name": "x", "input": 3}
DEEP = "[" * 5000 + "]" * 5000


def play(**answers) -> object:
    """Everything a rollout asks of a server; the error, or the call's output."""

    async def episode() -> object:
        async with ScriptedORS(answers) as server:
            async with ORSClient(server.url, timeouts=QUICK) as client:
                try:
                    await client.list_environments()
                    await client.list_splits("bad")
                    await client.list_tools("bad")
                    await client.num_tasks("bad", "train")
                    await client.get_task("bad", "train", 0)
                    async with client.session("bad", split="train", index=0) as session:
                        await session.get_prompt()
                        await session.get_messages()
                        await session.list_tools()
                        return await session.call_tool("act", {})
                except ORSError as error:
                    return error

    return asyncio.run(asyncio.wait_for(episode(), 60))


def result(**fields) -> bytes:
    output = {"blocks": [], "reward": None, "finished": False} | fields
    return events(("task_id", "t"), ("end", json.dumps({"ok": True, "output": output})))


def test_a_sound_server_is_played():
    assert isinstance(play(), ToolOutput)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("list_environments", json_answer(DEEP)),
        ("list_environments", json_answer([{"name": "x"}])),
        ("list_environments", json_answer([])),
        ("list_environments", json_answer(["\ud800"])),
        ("splits", json_answer([{"name": 5}])),
        ("tools", json_answer({"tools": [{"name": "x", "input_schema": [1]}]})),
        ("tools", json_answer({"tools": [], "terminal_tool": {"name": "x", "arg": 5}})),
        ("num_tasks", json_answer('{"num_tasks": ' + "9" * 4000 + "}")),
        ("num_tasks", json_answer({"num_tasks": -1})),
        ("num_tasks", json_answer({"num_tasks": True})),
        ("task", json_answer({"task": [1]})),
        ("create_session", json_answer({"sid": "a\r\nX-Evil: 1"})),
        ("create_session", json_answer({"sid": "naïve-☃"})),
        ("create_session", json_answer({"sid": "x" * 5000})),
        ("create_session", json_answer({"sid": ""})),
        ("create_session", json_answer({"sid": 7})),
        ("create_session", events(("task_id", "\x7f\x01"))),
        ("create_session", events(("error", "no"))),
        ("create_session", http(b"\xff\xfe", "text/event-stream")),
        ("create", json_answer({"detail": ["a", {"b": "c"}]}, status="400 Bad Request")),
        ("create", http(b"", status="500 No", headers="Retry-After: 99999999999\r\n")),
        ("create", http(b"", status="429 No", headers="Retry-After: Fri, 31 Dec 99999 23:59:59 GMT\r\n")),
        ("create_session", http(b"", status="503 No", headers="Retry-After: " + "9" * 5000 + "\r\n")),
        ("prompt", json_answer(DEEP)),
        ("prompt", json_answer([{"type": ["text"]}])),
        ("prompt", json_answer("[" + "1" * 10_000 + "]")),
        ("prompt", http(b"\xff", status="400 Bad Request")),
        ("prompt", b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"x" * 600_000),
        ("prompt", b"HTTP/1.1 100 Continue\r\n\r\n" * 30_000),
        ("prompt", http(b"not gzip", headers="Content-Encoding: gzip\r\n")),
        ("prompt", http(b"?", headers="Content-Encoding: br\r\n")),
        ("messages", json_answer([{"role": ["user"], "blocks": []}])),
        ("messages", json_answer([{"role": "user", "blocks": [CALL_WITH_A_NUMBER]}])),
        ("call", events(("task_id", "t"), ("end", DEEP))),
        ("call", events(("task_id", "t"), ("end", "1" * 5000))),
        ("call", result(reward=int("9" * 400))),
        ("call", result(reward=float("nan"))),
        ("call", result(reward=float("inf"))),
        ("call", result(reward=True)),
        ("call", result(finished="false")),
        ("call", events(("task_id", "t"), ("end", '{"ok": "false"}'))),
        ("call", events(("task_id", ""))),
        ("call", events(("error", "no"))),
        ("call", http(b"<html><title>oh</title></html>", "text/html")),
        ("call", http(b"", status="302 Found", headers="Location: http://elsewhere/\r\n")),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_a_failed_episode_with_its_cause(name, answer):
    error = play(**{name: answer})
    assert isinstance(error, ORSError), error
    assert str(error)


@pytest.mark.parametrize(
    "answer",
    [
        result(blocks=[{"type": "image", "data": "aGk=", "mimeType": 5}]),
        result(blocks=[{"type": "text", "text": "x", "detail": [1, [2]]}]),
        result(metadata=[1, 2]),
        result(metadata="text"),
        result(blocks=[{"type": "text", "text": "\ud800"}]),
        events(("task_id", "t"), ("end", json.dumps({"ok": False, "error": ["a"], "reason": ["not_found"]}))),
        events(("task_id", "t"), ("end", json.dumps({"ok": False}))),
    ],
)
def test_what_is_not_needed_is_read_leniently_and_written(answer, tmp_path):
    output = play(call=answer)
    assert isinstance(output, ToolOutput), output
    act = ToolCall("act")
    exchange = Exchange(Reply(tool_calls=(act,)), (Transition(act, output),))
    prompt = (Message("user", output.blocks),)
    episode = Trajectory("e", TaskRef("bad", "train", 0), StopReason.FINISHED, prompt, (exchange,))
    with TrajectoryWriter(tmp_path / "a.jsonl") as writer:
        writer.write(episode)
    assert list(read_trajectories(tmp_path / "a.jsonl"))


CHUNKED = b"HTTP/1.1 %s\r\nTransfer-Encoding: chunked\r\nContent-Type: %s\r\n\r\n"
CHUNK_EVENT = b"event: chunk\ndata: " + b"x" * 65536 + b"\n\n"
PIECE = b"10000\r\n" + b"x" * 65536 + b"\r\n"


@pytest.mark.parametrize(
    ("name", "answer", "reason"),
    [
        ("prompt", endless(CHUNKED % (b"200 OK", b"application/json"), PIECE), "longer than"),
        ("prompt", endless(CHUNKED % (b"400 No", b"text/plain"), PIECE), "xxxx"),
        ("prompt", endless(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 1000), "header section"),
        ("prompt", endless(CHUNKED % (b"200 OK", b"") + b"0\r\n", b"X-A: b\r\n" * 1000), "header section"),
        ("create_session", endless(CHUNKED % (b"200 OK", b"text/event-stream"), PIECE), "longer than"),
        ("call", endless(CHUNKED % (b"200 OK", b"application/json"), PIECE), "longer than"),
        ("call", endless(CHUNKED % (b"200 OK", b"text/event-stream") + b"6\r\ndata: \r\n", PIECE), "longer than"),
        ("call", endless(b"HTTP/1.1 200 OK\r\n\r\nevent: task_id\ndata: t\n\n", CHUNK_EVENT), "longer than"),
    ],
    ids=["prompt", "error body", "headers", "trailers", "session id", "JSON result", "event", "chunks"],
)  # fmt: skip
def test_an_answer_without_end_is_refused_at_a_stated_limit(name, answer, reason, monkeypatch):
    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 2**20)
    monkeypatch.setattr("ors_gym.client.tool_call.MAX_ANSWER_BYTES", 2**20)
    error = play(**{name: answer})
    assert isinstance(error, ProtocolError | StatusError), error
    assert reason in str(error)


def test_a_compressed_answer_is_read_although_none_was_asked_for():
    import gzip
    import zlib

    body = json.dumps([{"type": "text", "text": "go"}]).encode()
    for encoding, packed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        answer = http(packed, headers=f"Content-Encoding: {encoding}\r\n")
        assert isinstance(play(prompt=answer), ToolOutput), encoding


def test_a_few_bytes_that_stand_for_gigabytes_are_refused(monkeypatch):
    import gzip

    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 2**20)
    error = play(prompt=http(gzip.compress(b" " * 2**24), headers="Content-Encoding: gzip\r\n"))
    assert isinstance(error, ProtocolError)
    assert "longer than 1,048,576 bytes" in str(error)


@given(st.text())
def test_a_retry_after_of_any_text_is_seconds_or_nothing(text):
    seconds = retry_after_seconds({"retry-after": text})
    assert seconds is None or seconds >= 0


KEYS = [
    "ok", "output", "blocks", "type", "text", "data", "mimeType", "detail", "reward", "finished", "metadata", "error",
    "reason", "role", "id", "name", "input", "signature", "tool_call_id", "is_error", "tools", "input_schema",
    "description", "terminal_tool", "arg", "supports_score_group", "message_block_types",
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["text", "image", "tool_call", "user", "act", "train"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(KEYS),
        inner,
        max_size=5,
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(JSON)
def test_every_reader_gives_a_record_or_a_protocol_error(wire):
    for read in (
        ToolOutput.from_wire, ToolList.from_wire, Split.from_wire, Message.from_wire, GroupScore.from_wire,
        lambda value: [block_to_wire(block) for block in blocks_from_wire(value, "prompt")],
    ):  # fmt: skip
        try:
            record = read(wire)
        except ProtocolError:
            continue
        assert repr(record)
        if isinstance(record, Message):
            json.dumps(record.to_wire())
