r"""Server-sent events: bytes in, events out, no I/O.

Follows the WHATWG standard: exactly one space after the colon is removed; lines end at ``\n``, ``\r`` and ``\r\n``
only, however the bytes are split. It differs in two points to accept what ORS servers send: an event with a name and
no data is an event, and bytes that are not UTF-8 are an error instead of replacement characters.
"""

from __future__ import annotations

from typing import NamedTuple

from ors_gym.errors import ProtocolError

__all__ = ["MAX_EVENT_BYTES", "Event", "EventDecoder"]

MAX_EVENT_BYTES = 64 * 1024 * 1024
"""Maximum size of an event. The reference server splits results every 4,096 characters, but not its errors."""

_BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event: its name (``message`` where the stream names none) and its data lines joined by newlines."""

    name: str
    data: str


class EventDecoder:
    r"""Decodes one stream. ``feed`` takes bytes as they come and returns the events they complete.

    >>> decoder = EventDecoder()
    >>> decoder.feed(b"event: chunk\r\ndata:   indented"), decoder.feed(b" text\r\n\r\n: ping\n\n")
    ([], [Event(name='chunk', data='  indented text')])
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._partial: list[bytes] = []  # pieces of an incomplete line
        self._partial_bytes = 0
        self._data_bytes = 0
        self._after_cr = False
        self._at_start = True
        self._name: str | None = None
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[Event]:
        """Decode ``chunk``.

        Raises:
            ProtocolError: bytes that are no UTF-8, or an event longer than the limit.
        """
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        lines = chunk.splitlines()  # of bytes: ends at \n, \r and \r\n only
        rest = b"" if self._after_cr or chunk.endswith(b"\n") else lines.pop()
        if lines and self._partial:
            self._partial.append(lines[0])
            lines[0] = b"".join(self._partial)
            self._partial.clear()
            self._partial_bytes = 0
        events: list[Event] = []
        for line in lines:
            if self._at_start:
                self._at_start = False
                line = line.removeprefix(_BOM)
            if line:
                self._field(line)
            elif self._name is not None or self._data:
                events.append(self._finish())
        if rest:
            self._partial.append(rest)
            self._partial_bytes += len(rest)
            self._check_size()
        return events

    def _field(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        if field == b"data":
            value = value[1:] if value.startswith(b" ") else value
            self._data.append(value)
            self._data_bytes += len(value)
            self._check_size()
        elif field == b"event":
            self._name = _text(value[1:] if value.startswith(b" ") else value)

    def _finish(self) -> Event:
        event = Event(self._name or "message", _text(b"\n".join(self._data)))
        self._name = None
        self._data.clear()
        self._data_bytes = 0
        return event

    def _check_size(self) -> None:
        if self._data_bytes + self._partial_bytes > self._max_event_bytes:
            raise ProtocolError(f"an event longer than {self._max_event_bytes:,} bytes")


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"an event that is no UTF-8 ({error.reason} at byte {error.start})") from None
