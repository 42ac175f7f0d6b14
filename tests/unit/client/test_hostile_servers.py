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
from tests.support.bad_answers import ENDLESS, ODD_RESULTS, UNREADABLE
from tests.support.scripted_server import ScriptedORS, http

QUICK = Timeouts(
    request_seconds=5, first_event_seconds=5, silence_seconds=5, resume_seconds=1, starting_seconds=0.2,
    capacity_seconds=0.2, close_seconds=2, call_seconds=10,
)  # fmt: skip


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


def test_a_sound_server_is_played():
    assert isinstance(play(), ToolOutput)


@pytest.mark.parametrize(("name", "answer"), UNREADABLE)
def test_what_cannot_be_read_is_a_failed_episode_with_its_cause(name, answer):
    error = play(**{name: answer})
    assert isinstance(error, ORSError), error
    assert str(error)


@pytest.mark.parametrize("answer", ODD_RESULTS)
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


@pytest.mark.parametrize(("name", "answer", "reason"), ENDLESS.values(), ids=ENDLESS)
def test_an_answer_without_end_is_refused_at_a_stated_limit(name, answer, reason, monkeypatch):
    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 2**20)
    monkeypatch.setattr("ors_gym.client.tool_call.MAX_ANSWER_BYTES", 2**20)
    error = play(**{name: answer})
    assert isinstance(error, ProtocolError | StatusError), error
    assert reason in str(error)


def test_an_unrequested_compressed_answer_is_read():
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
