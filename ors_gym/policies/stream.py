"""Decoding an endpoint's answer as it arrives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from ors_gym.errors import ProtocolError
from ors_gym.http.sse import EventDecoder
from ors_gym.http.transport import MAX_ANSWER_BYTES, TransportResponse
from ors_gym.json_text import parse_json

__all__ = ["DONE", "answer_events"]

DONE = "[DONE]"
"""The end of a stream, in APIs that send one."""


async def answer_events(response: TransportResponse) -> AsyncIterator[list[Any]]:
    """The JSON of an answer: the events of a stream, or the complete answer if the endpoint does not stream.

    Yields a list for every chunk; it is empty for a keep-alive comment.

    Raises:
        ProtocolError: the answer is not JSON, or exceeds the limits.
    """
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        yield [parse_json(await response.read())]
        return
    events, size = EventDecoder(), 0
    async for chunk in response.chunks():
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise ProtocolError(f"the answer exceeds {MAX_ANSWER_BYTES:,} bytes")
        yield [DONE if data.strip() == DONE else parse_json(data) for _, data in events.feed(chunk)]
