"""A policy that calls a model's endpoint: vLLM, SGLang, llama.cpp, or a hosted model through its provider's API.

::

    async with ChatPolicy("http://localhost:8000/v1", "Qwen/Qwen3-8B", max_tokens=2048) as policy:
        trajectory = await EpisodeRunner(client, policy).run_episode(TaskRef("wordle", "train", 3))

Each turn is one streamed request with the conversation and the tools of the episode. Data that the endpoint sends
besides text and calls, such as signed or encrypted reasoning, is sent back unchanged. Failures:
and calls, such as signed or encrypted reasoning, goes back to it unchanged. Failures:

- The endpoint is busy (429), down (5xx) or unreachable, and no part of the answer has arrived: the request is retried
  after its ``Retry-After``, or with increasing delays, for at most ``retry_seconds``.
- The answer breaks off or ends with an unknown finish reason, or ``retry_seconds`` have passed:
  :class:`~ors_gym.errors.EndpointError`. The episode fails, and is retried or dropped as on any infrastructure failure.
- A content filter withholds the answer or refuses the conversation: this episode fails.
- The conversation is too long for the model: the episode is truncated (``max_tokens``).
- ``max_tokens`` exceeds the model's limit: it is lowered, with a warning in the log.
- The endpoint rejects the key, the model, the first request or further spending, or was never reached:
  :class:`EndpointRefusedError` ends the run.
- The model wrote a call that cannot be read or was cut off: no call of that message is made.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from ors_gym.client.timeouts import Timeouts
from ors_gym.dialects import Dialect, dialect
from ors_gym.errors import (
    CertificateError,
    ConnectError,
    EndpointError,
    EndpointRefusedError,
    ProtocolError,
    TransportError,
)
from ors_gym.http.factory import make_transport
from ors_gym.http.httpx_transport import HTTPXClient
from ors_gym.http.retry import backoff_seconds
from ors_gym.http.transport import Transport, TransportResponse, read_beginning
from ors_gym.json_text import parse_json
from ors_gym.policies.answer import Answer, Finish, Origin
from ors_gym.policies.api import Request
from ors_gym.policies.apis import api_named
from ors_gym.policies.policy import Reply, Turn
from ors_gym.policies.refusals import Refusal, Verdict, judge, room_left
from ors_gym.policies.stream import DONE, answer_events
from ors_gym.redaction import Redactor

__all__ = ["ChatPolicy", "EndpointRefusedError"]

FIRST_CONTACT_SECONDS = 15.0
"""Time limit for the first connection to an endpoint: its URL may be wrong."""
QUIET_SECONDS = 20.0
"""Delay before a warning that the first answer has not started."""

logger = logging.getLogger(__name__)


class _RefusedError(Exception):
    """A request was rejected before any part of an answer."""

    def __init__(self, why: str, refusal: Refusal, *, unreached: bool = False) -> None:
        super().__init__(why, refusal)
        self.why = why
        self.refusal = refusal
        self.unreached = unreached


def _again(why: str, *, unreached: bool = False) -> _RefusedError:
    return _RefusedError(why, Refusal(Verdict.AGAIN, why), unreached=unreached)


class ChatPolicy:
    """A policy that calls a model at an endpoint. Picklable, so that each Ray actor can have its own copy.

    Args:
        base_url: The API's URL, such as ``http://localhost:8000/v1``; ``/v1``, or the API's own version, is added to a
            URL without a path.
        model: The model's name at the endpoint.
        api: The provider's API: ``openai`` for Chat Completions, ``responses`` for OpenAI's Responses, ``anthropic``
            for Messages, ``google`` for generateContent.
        api_key: Sent in the API's own header; never in a log, error or repr. No environment variable is read.
        max_tokens: Maximum tokens of one message. An episode's own limit (``RolloutLimits.max_tokens``) lowers it.
        options: Other fields of the request body: ``temperature``, ``top_p``, ``seed``, ``tool_choice``,
            ``chat_template_kwargs``, ``thinking``, … For Google, they are sorted into the body and its
            ``generationConfig``.
        parser: The dialect that reads the text of a message. The default separates ``<think>…</think>``. For a Chat
            Completions server that does not parse tool calls, give the model's dialect (see :mod:`ors_gym.dialects`);
            the request then disables tool parsing.
        send_reasoning: By default reasoning is sent back as received. True also sends reasoning of other origin, as
            ``reasoning_content``; False sends none. For Chat Completions only.
        stream: Request a streamed answer, so that a dead endpoint is noticed by its silence.
        max_tokens_field: The endpoint's name for ``max_tokens``, if it differs from the API's; OpenAI's newer models
            require ``max_completion_tokens``. Any name of the limit may also be given in ``options``.
        retry_seconds: Maximum seconds to retry one message at a busy or unreachable endpoint.
        silence_seconds: Maximum seconds without receiving any data, including the wait for the start of the answer.
        answer_seconds: Maximum seconds for one answer, even while data arrives.
        headers: Sent with every request; kept as secret as the key.
        http_client: A client of httpx or httpx2 (proxies, certificates) to use instead of the faster default.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api: str = "openai",
        api_key: str | None = None,
        max_tokens: int | None = None,
        options: Mapping[str, Any] | None = None,
        parser: str | Dialect = "plain",
        send_reasoning: bool | None = None,
        stream: bool = True,
        max_tokens_field: str | None = None,
        retry_seconds: float = 120.0,
        silence_seconds: float = 600.0,
        answer_seconds: float = 7200.0,
        headers: Mapping[str, str] | None = None,
        http_client: HTTPXClient | None = None,
    ) -> None:
        self._api = api_named(api)
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"an endpoint's base_url must start with http:// or https://, got {base_url!r}")
        if parts.username is not None:
            raise ValueError("an endpoint's base_url must not hold credentials: pass them as api_key or headers")
        self._options = dict(options or {})
        stream = bool(self._options.pop("stream", stream))
        path, _, query = (self._api.root(parts.path) + self._api.call(model, stream=stream)).partition("?")
        whole = parts._replace(path=path, query="&".join(filter(None, (parts.query, query))), fragment="")
        self._target = whole.geturl()
        self.url = whole._replace(query="").geturl()
        """The request URL without its query, which holds the key for some endpoints."""
        self.model = model
        self.api = api
        key_headers = self._api.headers(api_key) if api_key else {}
        given = {name.lower(): value for name, value in (headers or {}).items()}
        common = {"content-type": "application/json", "user-agent": "ors-gym", **self._api.own_headers(), **key_headers}
        self._headers = {name: value for name, value in common.items() if name.lower() not in given} | dict(
            headers or {}
        )
        query_values = [value for _, value in parse_qsl(parts.query)]
        self._redact = Redactor([api_key or "", *(headers or {}).values(), *query_values])
        self._limit_name = max_tokens_field or self._api.limits[0]
        for name in self._api.limits:  # so that an episode's own limit also lowers it
            if name in self._options:
                self._limit_name, max_tokens = max_tokens_field or name, self._options.pop(name)
        if max_tokens is not None and max_tokens < 1:
            raise ValueError("max_tokens must be at least 1, or None for no limit")
        self._max_tokens = max_tokens
        self._dialect = dialect(parser)
        if self._dialect.name != "plain" and api != "openai":
            raise ValueError(f"the API {api!r} sends calls separately from text: parser requires api='openai'")
        self._send_reasoning = send_reasoning
        self._stream = stream
        self._retry_seconds = retry_seconds
        self._silence_seconds = silence_seconds
        self._answer_seconds = answer_seconds
        self._http_client = http_client
        self._transport: Transport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._accepted = False
        self._reached = False
        self._quirks: frozenset[str] = frozenset()
        self._said: set[str] = set()

    def __repr__(self) -> str:
        return f"<ChatPolicy {self.model} at {self.url}>"

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_transport": None, "_loop": None}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection; an ``http_client`` that was passed in stays open."""
        transport, self._transport = self._transport, None
        if transport is not None and self._loop is asyncio.get_running_loop():
            await transport.aclose()

    async def act(self, turn: Turn) -> Reply:
        """Request the model's next message.

        Raises:
            EndpointError: the endpoint failed; the episode ends.
            EndpointRefusedError: the endpoint rejects such requests; the run ends.
        """
        names = self._api.names(turn.tools)
        origin = Origin(self.url, self.model)
        limits = [limit for limit in (self._max_tokens, turn.max_tokens) if limit is not None]
        limit = min(limits) if limits else None
        began = time.monotonic()
        attempt = 0
        while True:
            request = Request(
                self.model,
                turn.messages,
                turn.tools,
                names,
                origin,
                self._dialect,
                self._stream,
                limit,
                self._limit_name,
                self._send_reasoning,
                self._options,
                self._quirks,
            )
            # A lone surrogate, which an environment may send, is not valid Unicode and becomes a question mark.
            body = self._api.body(request)
            wire = json.dumps(body, ensure_ascii=False, allow_nan=False).encode(errors="replace")
            try:
                answer = await self._ask(wire)
            except _RefusedError as refused:
                match refused.refusal.verdict:
                    case Verdict.AGAIN:
                        await self._wait(refused, attempt, began)
                        attempt += 1
                        continue
                    case Verdict.LESS_OUTPUT | Verdict.REQUEST if self._learn(refused, request.quirks):
                        continue
                    case Verdict.LESS_OUTPUT if (lower := self._lowered(refused, limit)) is not None:
                        limit = lower
                        continue
                    case Verdict.TOO_LONG | Verdict.LESS_OUTPUT:
                        return Reply(truncated=True)
                    case Verdict.MORE_OUTPUT if turn.max_tokens == limit:  # the episode's remaining tokens
                        return Reply(truncated=True)
                    case verdict:
                        raise self._ending(verdict, refused.why) from None
            try:
                return answer.reply(self._dialect, names, turn.tools, origin=origin, max_tokens=limit)
            except ProtocolError as error:
                raise self._failure(f"invalid answer from the endpoint: {error.message}") from None

    async def _wait(self, refused: _RefusedError, attempt: int, began: float) -> None:
        """Wait before the next attempt, or give up."""
        budget = self._retry_seconds
        never_reached = refused.unreached and not self._reached
        if never_reached:
            budget = min(budget, FIRST_CONTACT_SECONDS)
        delay = refused.refusal.after_seconds
        delay = backoff_seconds(attempt, 0.5, 20.0) if delay is None else max(delay, 0.05)
        if time.monotonic() + delay > began + budget:
            times = f"{attempt + 1} attempt{'s' if attempt else ''}"
            why = f"{refused.why} ({times} in {budget:g} s)"
            if never_reached and budget < self._retry_seconds:
                raise self._ending(Verdict.RUN, why)
            raise self._failure(why)
        if not self._accepted:
            self._say("waiting", f"{refused.why}; retrying for up to {budget:g} s")
        await asyncio.sleep(delay)

    def _learn(self, refused: _RefusedError, known: frozenset[str]) -> bool:
        """Whether the error reveals a new deviation of the endpoint, so that the request can be rewritten."""
        text = refused.refusal.said
        learned = {quirk for quirk, pattern in self._api.quirks.items() if pattern.search(text)} - known
        self._quirks |= learned
        return bool(learned)

    def _lowered(self, refused: _RefusedError, limit: int | None) -> int | None:
        """A lower token limit; None if no token would be left, or if there is no limit."""
        limit = self._api.default_limit if limit is None else limit
        if limit is None:
            return None
        room = room_left(refused.refusal.said)
        lower = limit // 2 if room is None or room.tokens >= limit else room.tokens
        if lower < 1:
            return None
        if room is not None and room.always and self._max_tokens is not None:
            self._max_tokens = min(self._max_tokens, lower)
        self._say("lowered", f"max_tokens={limit} exceeds the model's limit: lowered to {lower}")
        return lower

    async def _ask(self, body: bytes) -> Answer:
        """Send a request once.

        Raises:
            _RefusedError: the request was rejected before any part of an answer.
        """
        answer = self._api.answer()
        loop = asyncio.get_running_loop()
        quiet = loop.call_later(QUIET_SECONDS, self._say_quiet)
        whole = asyncio.timeout(self._answer_seconds)
        try:
            async with (
                whole,
                asyncio.timeout(self._silence_seconds) as silence,
                self._transport_here().send("POST", self._target, self._headers, body) as response,
            ):
                if response.status != 200:
                    self._reached = True
                    self._refuse(response, await read_beginning(response))
                if response.headers.get("content-type", "").startswith("text/html"):
                    raise _again("the endpoint answered with a web page", unreached=True)
                async for events in answer_events(response):
                    self._reached = True
                    quiet.cancel()
                    silence.reschedule(loop.time() + self._silence_seconds)
                    for event in events:
                        self._take(event, answer)
        # Errors of the connection after the answer's end are ignored.
        except TimeoutError:
            if not answer.finish_reason:
                why = f"the endpoint was silent for {self._silence_seconds:g} s"
                why = f"the answer took longer than {self._answer_seconds:g} s" if whole.expired() else why
                raise self._failure(why) from None
        except CertificateError as error:
            raise self._ending(Verdict.RUN, error.message) from None
        except TransportError as error:
            if not (answer.begun or answer.finish_reason):
                raise _again(error.message, unreached=isinstance(error, ConnectError)) from None
            if not answer.finish_reason:
                raise self._failure(f"the answer was cut off: {error.message}") from error
        except ProtocolError as error:
            raise self._failure(f"invalid answer from the endpoint: {error.message}") from None
        finally:
            quiet.cancel()
        if not answer.finish_reason:
            if answer.begun:
                raise self._failure("the answer was cut off before its end")
            raise _again("the answer was empty")
        if answer.finish is Finish.FILTERED:
            raise self._failure(f"the endpoint's content filter withheld the answer ({answer.finish_reason})")
        if answer.finish is Finish.FAILED:
            why = f"the answer ended with {answer.finish_reason!r}, which is not a known finish reason"
            if not answer.begun and judge(None, {}, {"code": answer.finish_reason}).verdict is Verdict.AGAIN:
                raise _again(why)
            raise self._failure(why)
        self._accepted = True
        return answer

    def _take(self, event: Any, answer: Answer) -> None:
        """Feed a part of the answer, or raise the error that it carries."""
        if event == DONE:
            answer.end()
            return
        error = answer.error_of(event)
        if error is None:
            answer.feed(event)
            return
        refusal = judge(None, {}, error)
        why = f"the endpoint aborted the answer: {refusal.said[:1000]}"
        if answer.begun and refusal.verdict is not Verdict.RUN:
            raise self._failure(why)
        raise _RefusedError(why, refusal)

    def _transport_here(self) -> Transport:
        """The transport of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._transport is None or self._loop is not loop:
            self._transport = make_transport(
                self.url, Timeouts().connect_seconds, None, self._http_client, None, None, True
            )
            self._loop = loop
        return self._transport

    def _refuse(self, response: TransportResponse, body: bytes) -> None:
        """Raise the error for a response whose status is not 200."""
        try:
            refusal = judge(response.status, response.headers, parse_json(body))
        except ProtocolError:
            refusal = judge(response.status, response.headers, body.decode(errors="replace"))
        why = f"the endpoint answered {response.status}"
        raise _RefusedError(f"{why}: {refusal.said[:1000]}" if refusal.said else why, refusal)

    def _ending(self, verdict: Verdict, why: str) -> EndpointError | EndpointRefusedError:
        """The error that ends the run or the episode."""
        accepted = self._accepted and verdict is Verdict.REQUEST
        if verdict is Verdict.EPISODE or accepted:
            return self._failure(why)
        return EndpointRefusedError(self._redact(f"{self.url} with model {self.model!r}: {why}"))

    def _failure(self, why: str) -> EndpointError:
        return EndpointError(self._redact(why)).at(f"POST {self.url}")

    def _say(self, once: str, what: str) -> None:
        """Log a warning, once per policy."""
        if once not in self._said:
            self._said.add(once)
            logger.warning("%s with model %s: %s", self.url, self.model, self._redact(what))

    def _say_quiet(self) -> None:
        if not self._accepted:
            self._say("quiet", f"no answer for {QUIET_SECONDS:g} s; waiting for up to {self._silence_seconds:g} s")
