"""An endpoint that goes on for ever is cut off at a stated limit, and what is kept of its answer is bounded."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ors_gym.errors import EndpointError
from ors_gym.policies import pieces, stream
from ors_gym.policies.endpoint import ChatPolicy
from ors_gym.policies.policy import Turn
from ors_gym.trajectory import TaskRef
from ors_gym.types import Message, TextBlock, ToolList
from tests.support.scripted_server import ScriptedORS, endless

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
TURN = Turn("e", TaskRef("e", "train", 0), (Message("user", (TextBlock("go"),)),), ToolList(()))
ROUTES = ("completions", "responses", "messages", "m:streamGenerateContent")


def ask(answer: Any, api: str, **options: Any) -> str:
    """The words of the error that ends the episode."""

    async def asked() -> str:
        async with ScriptedORS(dict.fromkeys(ROUTES, answer)) as server:
            async with ChatPolicy(server.url, "m", api=api, **options) as policy:
                with pytest.raises(EndpointError) as caught:
                    await policy.act(TURN)
                return str(caught.value)

    return asyncio.run(asyncio.wait_for(asked(), 60))


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"delta": fields}]}


def events(*values: Any) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(value).encode() for value in values)


@pytest.mark.parametrize(
    ("api", "piece"),
    [
        ("openai", events(delta(content="x" * 5000))),
        ("openai", b": still there\n\n" * 100),
        ("openai", events({}) * 100),
        ("anthropic", events({"type": "ping"}) * 100),
        ("responses", events({"type": "response.output_text.delta", "delta": "x"}) * 100),
        ("google", events({"usageMetadata": {}}) * 100),
    ],
)
def test_a_stream_without_end_is_refused_at_the_limit_of_bytes(api, piece, monkeypatch):
    monkeypatch.setattr(stream, "MAX_ANSWER_BYTES", 2**17)
    assert "the answer exceeds 131,072 bytes" in ask(endless(STREAM, piece), api)


@pytest.mark.parametrize(
    ("api", "event"),
    [
        ("openai", delta(reasoning_details=[{"type": "a"}] * 50)),
        ("openai", delta(content=[{"type": "text", "text": "x"}] * 50)),
        ("openai", delta(tool_calls=[{"id": i, "function": {"name": "f"}} for i in "ab"])),
        ("google", {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f"}}] * 50}}]}),
    ],
)
def test_parts_without_end_are_refused_at_the_limit_of_their_number(api, event, monkeypatch):
    monkeypatch.setattr(pieces, "MAX_PARTS", 100)
    assert "an answer of more than 100 parts" in ask(endless(STREAM, events(event)), api)


@pytest.mark.parametrize(
    ("api", "event"),
    [
        ("anthropic", {"type": "content_block_start", "content_block": {"type": "text", "text": ""}}),
        ("responses", {"type": "response.output_item.done", "item": {"type": "message"}}),
    ],
)
def test_blocks_at_ever_new_places_are_refused_at_the_limit_of_their_number(api, event, monkeypatch):
    monkeypatch.setattr(pieces, "MAX_PARTS", 100)
    blocks = [{**event, place: number} for number in range(120) for place in ("index", "output_index")]
    assert "an answer of more than 100 parts" in ask(endless(STREAM, events(*blocks)), api)


def test_an_endpoint_that_only_gives_signs_of_life_is_left_after_the_time_of_an_answer():
    async def alive(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        while True:
            writer.write(b": queued\n\n")
            await asyncio.sleep(0.01)

    assert "the answer took longer than 0.3 s" in ask(alive, "openai", answer_seconds=0.3)
