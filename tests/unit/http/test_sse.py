"""Event streams are decoded as the standard says, wherever the bytes are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ors_gym.errors import ProtocolError
from ors_gym.http.sse import Event, EventDecoder

NEWLINES = st.sampled_from(["\n", "\r", "\r\n"])
# Text of one data line: anything but the line ends, with the characters that careless decoders split or strip.
LINES = st.text(
    st.one_of(
        st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]),
        st.sampled_from(" \t:\u2028\u2029\u0085\u000b\u000c\u001c\u3000\u00a0\ufeff"),
    ),
    max_size=40,
)
EVENTS = st.lists(st.tuples(st.sampled_from(["task_id", "chunk", "end", "error"]), st.lists(LINES, min_size=1)))


def decode(data: bytes, cuts: list[int] = []) -> list[Event]:  # noqa: B006
    decoder = EventDecoder()
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(bounds)]
    return [event for piece in pieces for event in decoder.feed(piece)]


@given(EVENTS, NEWLINES, st.lists(st.integers(0, 2000)))
def test_every_character_arrives_with_any_line_ends_and_cuts(events, newline, cuts):
    stream = "".join(
        f"event: {name}{newline}" + "".join(f"data: {line}{newline}" for line in lines) + newline
        for name, lines in events
    )
    assert decode(stream.encode(), cuts) == [Event(name, "\n".join(lines)) for name, lines in events]


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_any_bytes_give_the_same_events_for_any_cuts(data, cuts):
    def outcome(cuts: list[int]) -> list[Event] | None:
        try:
            return decode(data, cuts)
        except ProtocolError:
            return None

    assert outcome(cuts) == outcome([])


@given(st.text(st.sampled_from("data:event \r\n\ufeffx"), max_size=60))
def test_byte_by_byte_is_the_same_as_all_at_once(text):
    data = text.encode()
    assert decode(data, list(range(len(data)))) == decode(data)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data:  two spaces\n\n", [Event("message", " two spaces")]),
        (b"data:none\n\n", [Event("message", "none")]),
        (b"data\n\n", [Event("message", "")]),
        (b"event: end\ndata: \n\n", [Event("end", "")]),
        (b"event: end\n\n", [Event("end", "")]),
        (b": ping - 2026\n\n", []),
        (b"id: 7\nretry: 5\nunknown\n\n", []),
        (b"event: chunk\nno colon here\ndata: x\n\n", [Event("chunk", "x")]),
        (b"\xef\xbb\xbfdata: x\n\n", [Event("message", "x")]),
        (b"data: \xe2\x80\xa8\xc2\x85 x\n\n", [Event("message", "\u2028\u0085 x")]),
        (b"data: not finished\n", []),
        (b"\r\n\r\ndata: a\r\rdata: b\n\r\n", [Event("message", "a"), Event("message", "b")]),
    ],
)
def test_the_corners_of_the_standard(stream, events):
    assert decode(stream) == events


def test_an_event_over_the_limit_is_refused_before_it_is_whole():
    decoder = EventDecoder(max_event_bytes=1000)
    with pytest.raises(ProtocolError, match="1,000 bytes"):
        for _ in range(20):
            decoder.feed(b"x" * 100)
    decoder = EventDecoder(max_event_bytes=1000)
    with pytest.raises(ProtocolError, match="1,000 bytes"):
        for _ in range(20):
            decoder.feed(b"data: " + b"x" * 100 + b"\n")


def test_the_limit_is_for_one_event_not_for_the_stream():
    decoder = EventDecoder(max_event_bytes=1000)
    assert sum(len(decoder.feed(b"data: " + b"x" * 900 + b"\n\n")) for _ in range(20)) == 20


def test_bytes_that_are_no_utf8_are_an_error_and_not_replaced():
    with pytest.raises(ProtocolError, match="UTF-8"):
        decode(b"data: caf\xe9\n\n")
