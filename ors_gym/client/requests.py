"""Requests to one ORS server: retries, waits, and errors.

- Nothing was sent (no connection): sent again, a few times.
- The connection broke: sent again if the request is *repeatable* (running it twice is the same as once).
- ``503`` with ``X-Backend-State: starting``: nothing ran; waited for, up to ``Timeouts.starting_seconds``.
- ``429``: nothing ran; waited for, up to ``Timeouts.capacity_seconds``.
- ``503`` with a page or ``Retry-After``, to a repeatable request: waited for as long; a gateway wakes the server.
- ``502``, ``503``, ``504`` otherwise: a gateway could not say; sent again if repeatable.
- Every other status is an answer. A 4xx is never sent again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

from ors_gym.client.timeouts import Timeouts
from ors_gym.errors import (
    AuthenticationError,
    CapacityError,
    CertificateError,
    ConnectError,
    NotFoundError,
    ProtocolError,
    RequestTimeoutError,
    StartingError,
    StatusError,
    TransportError,
)
from ors_gym.http.retry import backoff_seconds, is_gateway_failure, is_starting
from ors_gym.http.transport import Transport, TransportResponse, read_beginning
from ors_gym.json_text import parse_json, read_json
from ors_gym.redaction import Redactor

__all__ = [
    "MAX_ATTEMPTS",
    "Request",
    "RequestSender",
    "status_error",
]

T = TypeVar("T")

Heard: TypeAlias = Callable[[Mapping[str, str]], None]

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
"""Maximum attempts per request, excluding waits for a starting or full server."""

NOTICE_SECONDS = 10.0
"""Delay before a warning about a silent server."""

MAX_DETAIL = 2000
"""Maximum characters of a server's detail in an error."""

TITLE = re.compile(r"<title[^>]{0,200}>([^<]{0,1000})", re.IGNORECASE)

MAX_URGENT_REQUESTS = 64
"""Maximum concurrent pings and deletions."""


NO_SECRETS = Redactor(())


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None = None
    repeatable: bool = True
    """Whether sending it twice is harmless."""
    urgent: bool = False
    """Whether it bypasses the limit of concurrent requests, so that it does not wait for tool calls."""
    redact: Redactor = NO_SECRETS
    """Masks the secrets of the request's session in errors."""

    def __str__(self) -> str:
        return f"{self.method} {self.url}"


class RequestSender:
    """Sends the requests to one server."""

    def __init__(
        self, transport: Transport, timeouts: Timeouts, *, max_requests: int, redact: Redactor = NO_SECRETS
    ) -> None:
        self.timeouts = timeouts
        self.transport = transport
        self._slots = asyncio.Semaphore(max_requests)
        self._urgent_slots = asyncio.Semaphore(MAX_URGENT_REQUESTS)
        self._redact = redact
        self._told_waiting = False
        self._spoke = False  # whether the server answered anything yet, or its silence was logged

    def send(self, request: Request) -> AbstractAsyncContextManager[TransportResponse]:
        """Send a request once and stream its answer."""
        return self.transport.send(request.method, request.url, request.headers, request.body)

    def slot(self, request: Request) -> asyncio.Semaphore:
        """The semaphore to hold during the request (see ``max_connections``)."""
        return self._urgent_slots if request.urgent else self._slots

    def redact(self, text: str, request: Request) -> str:
        """Mask the API key and the session's secrets, which servers may echo."""
        return request.redact(self._redact(text))

    async def fetch(self, request: Request, *, seconds: float | None = None, heard: Heard | None = None) -> bytes:
        """Send a request, with retries where safe, and return the body of its 2xx answer.

        Args:
            request: what to send.
            seconds: a limit for all attempts together, instead of ``Timeouts.request_seconds`` for each.
            heard: called with the headers of the answer.

        Raises:
            TransportError: no answer came.
            StatusError: another status came.
        """
        notice = self._notice_of_silence(request)
        try:
            async with asyncio.timeout(seconds):
                return await self._fetch(request, heard)
        except TimeoutError:
            raise RequestTimeoutError(f"no answer within {seconds:g} s").at(str(request)) from None
        finally:
            if notice is not None:
                notice.cancel()

    def _notice_of_silence(self, request: Request) -> asyncio.TimerHandle | None:
        """Log a warning once if the server does not answer its first request for a while."""
        if self._spoke:
            return None

        def warn() -> None:
            if not self._spoke:
                self._spoke = True
                limit = self.timeouts.request_seconds
                logger.warning("no answer to %s for %g s; waiting up to %g s", request, NOTICE_SECONDS, limit)

        return asyncio.get_running_loop().call_later(NOTICE_SECONDS, warn)

    async def _fetch(self, request: Request, heard: Heard | None) -> bytes:
        budget = self.timeouts.retry_budget()
        attempt = 0
        while True:
            attempt += 1
            try:
                async with (
                    self.slot(request),
                    asyncio.timeout(self.timeouts.request_seconds),
                    self.send(request) as response,
                ):
                    good = 200 <= response.status < 300
                    body = await (response.read() if good else read_beginning(response))
            except TimeoutError:
                limit = self.timeouts.request_seconds
                raise RequestTimeoutError(f"no answer within {limit:g} s").at(str(request)) from None
            except ProtocolError as error:
                raise error.at(str(request)) from error.__cause__
            except TransportError as error:
                if isinstance(error, CertificateError):
                    raise error.at(str(request)) from error.__cause__
                unsent = isinstance(error, ConnectError) and self.transport.knows_unsent
                if attempt >= MAX_ATTEMPTS or not (unsent or request.repeatable):
                    raise error.at(str(request)) from error.__cause__
                await asyncio.sleep(backoff_seconds(attempt, 0.1, 2.0))
                continue
            self._spoke = True
            if good:
                if heard is not None:
                    heard(response.headers)
                return body
            if response.status == 503 and not self._told_waiting:
                self._told_waiting = True
                logger.warning("%s; waiting for the server to start", self.refusal(request, response, body))
            if await budget.wait(response, repeatable=request.repeatable):
                attempt -= 1
            elif attempt < MAX_ATTEMPTS and request.repeatable and is_gateway_failure(response):
                await asyncio.sleep(backoff_seconds(attempt, 0.1, 2.0))
            else:
                raise self.refusal(request, response, body).at(str(request))

    async def fetch_json(self, request: Request, read: Callable[[Any], T], heard: Heard | None = None) -> T:
        """Like :meth:`fetch`, with the body parsed as JSON and passed to ``read``.

        Raises:
            ProtocolError: the body is no JSON, or not what ``read`` expects.
        """
        return self.interpret(request, await self.fetch(request, heard=heard), read)

    def interpret(self, request: Request, answer: str | bytes, read: Callable[[Any], T]) -> T:
        """Take an answer as JSON and give it to ``read``."""
        try:
            return read(parse_json(answer))
        except ProtocolError as error:
            message = self.redact(error.message, request)
        raise ProtocolError(message).at(str(request))  # out here, so that it carries no context with secrets

    def refusal(self, request: Request, response: TransportResponse, body: bytes) -> StatusError:
        """The error for an answer other than 2xx."""
        target = response.headers.get("location", "") if 300 <= response.status < 400 else ""
        detail = self.redact(target or _detail(response, body), request)
        return status_error(response.status, detail, starting=is_starting(response.headers))


def status_error(status: int, detail: str, *, starting: bool = False) -> StatusError:
    """The error class of an HTTP status."""
    if 300 <= status < 400:
        return StatusError(status, f"redirected to {detail}; pass the server's final URL, keys follow no redirect")
    if status == 503 and starting:
        return StartingError(status, detail)
    classes = {401: AuthenticationError, 403: AuthenticationError, 404: NotFoundError, 429: CapacityError}
    return classes.get(status, StatusError)(status, detail)


def _detail(response: TransportResponse, body: bytes) -> str:
    """The server's explanation: FastAPI's ``detail``, the title of a page, or the text itself."""
    text = body.decode(errors="replace").strip()
    if text.startswith("<") or response.headers.get("content-type", "").startswith("text/html"):
        title = TITLE.search(text)
        return f"a page titled {' '.join(title[1].split())[:MAX_DETAIL]!r}" if title else "a page without a title"
    try:
        wire = read_json(text)
    except ValueError:
        return text[:MAX_DETAIL]
    if isinstance(wire, dict):
        fields = cast("dict[str, Any]", wire)
        wire = next((fields[key] for key in ("detail", "error", "message") if key in fields), text)
    return (wire if isinstance(wire, str) else json.dumps(wire, ensure_ascii=False))[:MAX_DETAIL]
