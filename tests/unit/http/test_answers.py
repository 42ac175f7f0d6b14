"""Answers of ASGI applications."""

from __future__ import annotations

import asyncio

import pytest

from ors_gym.http.answers import PIECE_BYTES, Message, send_body


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 7])
def test_a_long_answer_is_sent_in_pieces_so_that_who_does_not_read_holds_no_copy(size: int):
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    body = bytes(number % 251 for number in range(size))
    asyncio.run(send_body(send, body))
    assert b"".join(message["body"] for message in sent) == body
    assert all(len(message["body"]) <= PIECE_BYTES for message in sent)
    assert [message.get("more_body", False) for message in sent] == [True] * (len(sent) - 1) + [False]
