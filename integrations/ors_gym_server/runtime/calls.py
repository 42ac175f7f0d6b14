"""A tool call: its event stream, and its result kept for a client that resumes it.

The stream is ``task_id``, comments while the tool runs, then the result as ``chunk`` events and one ``end``, or one
``error`` (ORS, tool calls). A client that lost the stream sends the call again with its ``task_id`` and gets the same
result; nothing runs twice.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["PING", "CallTable", "Results", "RunningCall", "cut", "error_events", "result_events", "task_id_event"]

CUT = 16_384
"""Characters of a result in one event; the reference client's lines may have 128 KiB."""

MAX_ERROR = 16_384
"""Characters of an error's message."""

PING = b": ping\r\n\r\n"

_LINE_END = re.compile(r"\r\n|\r|\n")
_UNUSUAL_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def task_id_event(task_id: str) -> bytes:
    """The first event of a call."""
    return b"event: task_id\r\ndata: %b\r\n\r\n" % task_id.encode()


def result_events(text: str) -> bytes:
    """The JSON ``text`` as its events.

    White space at the ends of a piece, which some clients strip, and characters that some take for line ends are
    written as JSON escapes. They occur in JSON strings only, so every client reads the same text.
    """
    if not text.isascii():
        text = text.translate(_UNUSUAL_LINE_ENDS)
    if len(text) <= CUT:
        return b"event: end\r\ndata: %b\r\n\r\n" % text.encode()
    events: list[bytes] = []
    for start in range(0, len(text), CUT):
        piece = text[start : start + CUT]
        if piece[0].isspace():
            piece = f"\\u{ord(piece[0]):04x}{piece[1:]}"
        if piece[-1].isspace():
            piece = f"{piece[:-1]}\\u{ord(piece[-1]):04x}"
        name = b"chunk" if start + CUT < len(text) else b"end"
        events.append(b"event: %b\r\ndata: %b\r\n\r\n" % (name, piece.encode()))
    return b"".join(events)


def cut(message: str) -> str:
    """A message with at most :data:`MAX_ERROR` characters of its text."""
    if len(message) <= MAX_ERROR:
        return message
    return f"{message[:MAX_ERROR]}… ({len(message) - MAX_ERROR} more characters)"


def error_events(message: str) -> bytes:
    """A failure of the environment as its event."""
    lines = _LINE_END.split(cut(message).encode("utf-8", "backslashreplace").decode())
    return b"event: error\r\n%b\r\n" % b"".join(b"data: %b\r\n" % line.encode() for line in lines)


class RunningCall:
    """A running call. ``finish`` ends it once and wakes its listeners."""

    __slots__ = ("_finish", "_waiters", "events", "listeners", "started", "task", "task_id", "tool")

    def __init__(self, task_id: str, tool: str, started: float, finish: Callable[[RunningCall, bytes], None]) -> None:
        self.task_id = task_id
        self.tool = tool
        self.started = started
        self.task: asyncio.Task[None] | None = None
        self.events: bytes | None = None
        """The end of the stream, None while the tool runs."""
        self.listeners = 0
        """Number of clients that wait for the result."""
        self._finish = finish
        self._waiters: list[asyncio.Future[None]] = []

    def finish(self, events: bytes) -> None:
        """End the call with these events, unless it has ended."""
        if self.events is not None:
            return
        self.events = events
        self._finish(self, events)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def wait(self, seconds: float) -> bytes | None:
        """The end of the stream, None if the tool still runs after the timeout."""
        if self.events is None:
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.append(waiter)
            timer = loop.call_later(seconds, _wake, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
                if self._waiters:
                    self._waiters.remove(waiter)
        return self.events


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


CallTable: TypeAlias = dict[str, RunningCall | bytes | None]
"""The calls of one session by ``task_id``: running, ended with these events, or ended and dropped."""

_Kept: TypeAlias = tuple[float, int, str, int]


class Results:
    """Results of ended calls, limited in time and in bytes over all sessions.

    Results that reached a listening client are dropped first. Each entry is a few numbers and a name, invisible to the
    garbage collector, because a server keeps hundreds of thousands.
    """

    OVERHEAD = 400
    """Overhead of a kept result in bytes."""
    MIN_STALE = 1024
    """Entries of removed tables that wait for their time, as long as others outnumber them."""

    def __init__(self, max_bytes: int, max_seconds: float, max_remembered: int) -> None:
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._max_remembered = max_remembered
        self.num_bytes = 0
        self._tables: dict[int, CallTable] = {}
        self._dropped: dict[int, deque[str]] = {}
        """Dropped results that each table remembers, so that their calls do not run again."""
        self._next_table = 0
        self._heard: deque[_Kept] = deque()
        self._unheard: deque[_Kept] = deque()
        self._num_stale = 0
        """Entries of removed tables that are still in the queues."""

    def add_table(self, calls: CallTable) -> int:
        """Add a table and return its number."""
        self._next_table += 1
        self._tables[self._next_table] = calls
        self._dropped[self._next_table] = deque()
        return self._next_table

    def remove_table(self, table: int) -> None:
        """Drop all of a table's results."""
        self._dropped.pop(table, None)
        for events in self._tables.pop(table, {}).values():
            if isinstance(events, bytes):
                self.num_bytes -= len(events) + self.OVERHEAD
                self._num_stale += 1
        if self._num_stale > max(self.MIN_STALE, (len(self._heard) + len(self._unheard)) // 2):
            self._heard = deque(kept for kept in self._heard if kept[1] in self._tables)
            self._unheard = deque(kept for kept in self._unheard if kept[1] in self._tables)
            self._num_stale = 0

    def keep(self, table: int, task_id: str, events: bytes, now: float, *, heard: bool) -> None:
        """Keep a result for a client that may resume its call."""
        calls = self._tables.get(table)
        if calls is None:
            return
        size = len(events) + self.OVERHEAD
        calls[task_id] = events
        self.num_bytes += size
        (self._heard if heard else self._unheard).append((now + self._max_seconds, table, task_id, size))
        while self.num_bytes > self._max_bytes:
            self._drop(self._heard or self._unheard)

    def expire(self, now: float) -> None:
        """Drop expired results."""
        for kept in (self._heard, self._unheard):
            while kept and kept[0][0] <= now:
                self._drop(kept)

    def _drop(self, kept: deque[_Kept]) -> None:
        _, table, task_id, size = kept.popleft()
        calls = self._tables.get(table)
        if calls is None:
            self._num_stale -= 1
        elif calls.get(task_id) is not None:
            calls[task_id] = None
            self.num_bytes -= size
            dropped = self._dropped[table]
            dropped.append(task_id)
            if len(dropped) > self._max_remembered:
                del calls[dropped.popleft()]
