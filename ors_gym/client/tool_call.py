"""One tool call, run at most once.

The states of a call, and the recovery from each::

    UNSENT ──request goes out──▶ SENT ──task_id arrives──▶ RUNNING ──end or error──▶ ANSWERED
      ▲                           │                          │  ▲
      └── no connection, 429,  ◀──┘                          └──┘ cut or silent: asked again WITH the task_id,
          503 starting:                                          which replays the result and runs nothing
          nothing ran
                                  │ cut, silent, 5xx
                                  ▼
                                AMBIGUOUS: never sent again, the session is given up

On servers that let the client choose the ``task_id`` (as their answer to ``/create`` says) a call is RUNNING from the
start: a repeated call with the same ``task_id`` runs once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any, TypeVar

from ors_gym.client.requests import MAX_ATTEMPTS, Request, RequestSender
from ors_gym.errors import (
    AmbiguousCallError,
    CallTimeoutError,
    CertificateError,
    ConnectError,
    ConnectionLostError,
    ORSError,
    ProtocolError,
    RequestTimeoutError,
    StartingError,
    ToolFailedError,
    TransportError,
)
from ors_gym.http.retry import backoff_seconds, is_gateway_failure
from ors_gym.http.sse import EventDecoder
from ors_gym.http.transport import MAX_ANSWER_BYTES, TransportResponse, read_beginning
from ors_gym.json_text import encode_json

__all__ = ["Call", "CallState"]

T = TypeVar("T")

MAX_RESUMPTIONS = 20
"""Maximum consecutive resumptions without any event of the running call."""

DRAIN_SECONDS = 0.1
"""Seconds to wait for the end of an answered stream, so that its connection can be reused."""


class CallState(StrEnum):
    """The state of a call."""

    UNSENT = "unsent"
    """Nothing was sent, or the server said that nothing ran."""
    SENT = "sent"
    """The request is sent and unanswered: the tool may be running."""
    RUNNING = "running"
    """The call has a ``task_id``: sending it again replays the result and never runs the tool twice."""
    ANSWERED = "answered"
    """The result has arrived."""


class Call:
    """One tool call; :meth:`run` returns its result or raises an error that says whether it may have run."""

    def __init__(
        self, sender: RequestSender, request: Request, payload: Mapping[str, Any], *, task_id: str | None
    ) -> None:
        self.state = CallState.UNSENT if task_id is None else CallState.RUNNING
        self._sender = sender
        self._timeouts = sender.timeouts
        self._payload = dict(payload) if task_id is None else {**payload, "task_id": task_id}
        self._request = replace(request, body=encode_json(self._payload))
        self._sent = False
        self._heard = False
        self._answer: str | bytes = ""

    @property
    def where(self) -> str:
        """The request, for errors."""
        return str(self._request)

    @property
    def may_have_run(self) -> bool:
        """Whether the tool may have run."""
        return self._sent

    async def run(self, read: Callable[[Any], T]) -> T:
        """Send the call and return its result: the JSON of ``end``, given to ``read``.

        Raises:
            ORSError: with ``may_have_run`` set.
        """
        where = self.where
        try:
            async with asyncio.timeout(self._timeouts.call_seconds):
                await self._run()
            return self._sender.interpret(self._request, self._answer, read)
        except TimeoutError:
            limit = self._timeouts.call_seconds
            raise CallTimeoutError(f"no result within {limit} s").at(where, may_have_run=self.may_have_run) from None
        except ORSError as error:
            raise error.at(where, may_have_run=self.may_have_run) from error.__cause__

    async def _run(self) -> None:
        budget = self._timeouts.retry_budget()
        failures = 0
        resumptions = 0
        broken_since: float | None = None
        while True:
            before, sent_before = self.state, self._sent
            try:
                async with self._sender.slot(self._request):
                    refused = await self._exchange()
            except (ConnectError, ConnectionLostError, RequestTimeoutError) as error:
                fault: ORSError = error
                unsent = isinstance(error, ConnectError) and self._sender.transport.knows_unsent
                if unsent and before is CallState.UNSENT:
                    self.state, self._sent = before, sent_before
                    failures += 1
                    if failures >= MAX_ATTEMPTS or isinstance(error, CertificateError):
                        raise
                    await asyncio.sleep(backoff_seconds(failures, 0.1, 2.0))
                    continue
            else:
                if refused is None:
                    return
                response, body = refused
                fault = self._sender.refusal(self._request, response, body)
                if response.status < 500 or isinstance(fault, StartingError):  # nothing ran
                    self.state, self._sent = before, sent_before
                    if await budget.wait(response):
                        continue
                if not is_gateway_failure(response):
                    raise fault
            if self.state is CallState.SENT:
                raise AmbiguousCallError(f"the call was sent and its answer never began ({fault.message})") from fault
            now = time.monotonic()
            if broken_since is None or self._heard:
                broken_since, resumptions = now, min(resumptions, 1)
            resumptions += 1
            if now - broken_since > self._timeouts.resume_seconds or resumptions > MAX_RESUMPTIONS:
                raise AmbiguousCallError(
                    f"the connection to the running call was lost and not regained ({fault.message})"
                ) from fault
            if resumptions > 1:
                await asyncio.sleep(backoff_seconds(resumptions - 2, 0.2, 5.0))

    async def _exchange(self) -> tuple[TransportResponse, bytes] | None:
        """Send the call once and read its answer; returns None with a result, else the refusal."""
        timeouts = self._timeouts
        limit = timeouts.silence_seconds if self._sent else timeouts.first_event_seconds
        if self.state is CallState.UNSENT:
            self.state = CallState.SENT
        self._sent = True
        self._heard = False
        clock = asyncio.timeout(limit)
        try:
            async with clock, self._sender.send(self._request) as response:
                if response.status != 200:
                    return response, await read_beginning(response)
                kind = response.headers.get("content-type", "text/event-stream")
                if kind.startswith("application/json"):
                    self._finish(await response.read())
                elif kind.startswith("text/event-stream"):
                    await self._listen(response, clock)
                else:
                    raise ProtocolError(f"expected an event stream, got {kind}")
        except TimeoutError:
            if not self._answered:
                limit = timeouts.silence_seconds if self._heard else limit
                raise RequestTimeoutError(f"silent for {limit:g} s") from None
        except (TransportError, ProtocolError):
            if not self._answered:  # after the result, how the stream ends does not matter
                raise
        if not self._answered:
            raise ConnectionLostError("the event stream ended before the result")
        return None

    async def _listen(self, response: TransportResponse, clock: asyncio.Timeout) -> None:
        decoder = EventDecoder()
        pieces: list[str] = []
        length = 0
        loop = asyncio.get_running_loop()
        async for chunk in response.chunks():
            if self._answered:
                continue  # the end of the stream, read so that the connection can be used again
            events = decoder.feed(chunk)
            for name, data in events:
                length += len(data)
                if length > MAX_ANSWER_BYTES:
                    raise ProtocolError(f"a result longer than {MAX_ANSWER_BYTES:,} bytes")
                if name == "chunk":
                    pieces.append(data)
                elif name == "end":
                    pieces.append(data)
                    self._finish("".join(pieces))
                    break
                elif name == "task_id":
                    self._begin(data.strip())
                elif name == "error":
                    raise self._failure(data)
            self._heard = self._heard or [event.name for event in events] != ["task_id"]
            if self.state is not CallState.SENT:
                quiet = DRAIN_SECONDS if self._answered else self._timeouts.silence_seconds
                clock.reschedule(loop.time() + quiet)

    @property
    def _answered(self) -> bool:
        return self.state is CallState.ANSWERED

    def _begin(self, task_id: str) -> None:
        if not task_id:
            raise ProtocolError("a task_id event without an id")
        if self.state is CallState.SENT:
            self.state = CallState.RUNNING
            self._payload["task_id"] = task_id
            self._request = replace(self._request, body=encode_json(self._payload))

    def _finish(self, text: str | bytes) -> None:
        self._answer = text
        self.state = CallState.ANSWERED

    def _failure(self, message: str) -> ORSError:
        if message.strip() == "unknown task_id" and "task_id" in self._payload:
            return AmbiguousCallError("the server no longer knows the call or its result")
        return ToolFailedError(self._sender.redact(message, self._request) or "the tool failed without a message")
