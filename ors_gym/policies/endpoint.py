"""A policy behind a chat-completions endpoint: vLLM, SGLang, llama.cpp, or a hosted model.

::

    async with ChatPolicy("http://localhost:8000/v1", "Qwen/Qwen3-8B", max_tokens=2048) as policy:
        trajectory = await EpisodeRunner(client, policy).run_episode(TaskRef("wordle", "train", 3))

Each turn is one request, streamed, that carries the conversation and the tools of the episode. What can go wrong with
it, and what then:

- The endpoint is busy (429), down (5xx) or not there (no connection), and nothing of the answer has come: asked again,
  when its ``Retry-After`` says or ever more seldom, for ``retry_seconds`` in all.
- The answer breaks off, or that time is up: :class:`~ors_gym.errors.EndpointError`. The episode fails, and is played
  again or dropped like one whose environment broke; nothing is scored.
- The conversation has grown too long for the model: the episode is truncated (``max_tokens``).
- The endpoint refuses the key or the model, or the very first requests: :class:`EndpointRefusedError`, which ends the
  run. No other episode would fare better.
- The model wrote a call that cannot be read: an observation for it, with a reason.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import parse_qsl, urlsplit

from ors_gym.client.timeouts import Timeouts
from ors_gym.dialects import Dialect, dialect
from ors_gym.errors import EndpointError, ProtocolError, TransportError
from ors_gym.http.factory import make_transport
from ors_gym.http.retry import backoff_seconds, retry_after_seconds
from ors_gym.http.sse import EventDecoder
from ors_gym.http.transport import Transport, TransportResponse, read_beginning
from ors_gym.json_text import parse_json
from ors_gym.policies.chat import Completion, ToolNames, chat_messages
from ors_gym.policies.policy import Reply, Turn
from ors_gym.redaction import Redactor
from ors_gym.types.shapes import JSONObject

if TYPE_CHECKING:
    import httpx

__all__ = ["ChatPolicy", "EndpointRefusedError"]

TOO_LONG = re.compile(
    r"context.?(length|window|size)|prompt is too long|prompt.{0,40}tokens.{0,40}too (long|large)|max_model_len"
    r"|token count.{0,40}exceed|too many (input |prompt )?tokens|tokens.{0,40}must be <=",
    re.IGNORECASE,
)
"""What servers say of a conversation that does not fit: OpenAI, vLLM, SGLang, llama.cpp and hosted ones differ."""
DONE = "[DONE]"
"""The end of a stream."""


class EndpointRefusedError(RuntimeError):
    """The endpoint refuses the requests themselves: the key, the model or a setting is wrong. Ends the run."""


class _AskAgainError(Exception):
    """Nothing was produced, and asking again may help; ``after_seconds`` if the endpoint said when."""

    def __init__(self, why: str, after_seconds: float | None = None) -> None:
        super().__init__(why, after_seconds)
        self.why = why
        self.after_seconds = after_seconds


class ChatPolicy:
    """Asks a model at an OpenAI-compatible endpoint. Picklable, so that each Ray actor can have its own.

    Args:
        base_url: The API's address, such as ``http://localhost:8000/v1`` (``/v1`` is added to an address without a
            path).
        model: The model's name there.
        api_key: Sent as a bearer token; in no log, error or repr. No environment variable is read.
        max_tokens: Of one message. An episode's own limit (``RolloutLimits.max_tokens``) lowers it.
        options: Anything else of the request's body: ``temperature``, ``top_p``, ``seed``, ``tool_choice``,
            ``chat_template_kwargs``, …
        parser: Reads the text of a message. The default sets ``<think>…</think>`` apart; for a server that does not
            parse tool calls give the model's dialect (see :mod:`ors_gym.dialects`): the request then says so.
        send_reasoning: Give the model its earlier thoughts back. Some models want them, some endpoints refuse them.
        stream: Ask for the answer in pieces: a dead endpoint is noticed by its silence.
        max_tokens_field: What the endpoint calls ``max_tokens``; OpenAI's newer models want
            ``max_completion_tokens``. Either may be given in ``options`` instead.
        retry_seconds: How long a busy endpoint, or one that is not there, is asked again for one message.
        silence_seconds: How long an answer may go without a sign of life, the wait for its beginning included.
        headers: Sent with every request; kept as secret as the key.
        http_client: An httpx client of your own (proxies, certificates), instead of the faster default.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        max_tokens: int | None = None,
        options: Mapping[str, Any] | None = None,
        parser: str | Dialect = "plain",
        send_reasoning: bool = False,
        stream: bool = True,
        max_tokens_field: str = "max_tokens",
        retry_seconds: float = 120.0,
        silence_seconds: float = 600.0,
        headers: Mapping[str, str] | None = None,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"an endpoint's base_url begins with http:// or https://, got {base_url!r}")
        if parts.username is not None:
            raise ValueError("an endpoint's base_url holds no credentials: give them as api_key or headers")
        path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
        whole = parts._replace(path=f"{path}/chat/completions", fragment="")
        self._target = whole.geturl()
        self.url = whole._replace(query="").geturl()
        """Where requests go, without the query, in which some endpoints want the key."""
        self.model = model
        self._headers = {"Content-Type": "application/json", "User-Agent": "ors-gym", **(headers or {})}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        of_query = [value for _, value in parse_qsl(parts.query)]
        self._redact = Redactor([api_key or "", *(headers or {}).values(), *of_query])
        self._options = dict(options or {})
        for name in ("max_tokens", "max_completion_tokens"):  # so that an episode's own limit lowers it here too
            if name in self._options:
                max_tokens_field, max_tokens = name, self._options.pop(name)
        if max_tokens is not None and max_tokens < 1:
            raise ValueError("max_tokens must be at least 1, or None for no limit")
        self._max_tokens = max_tokens
        self._dialect = dialect(parser)
        self._send_reasoning = send_reasoning
        self._stream = stream
        self._max_tokens_field = max_tokens_field
        self._retry_seconds = retry_seconds
        self._silence_seconds = silence_seconds
        self._http_client = http_client
        self._transport: Transport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._accepted = False

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
        """Ask the model for its next message.

        Raises:
            EndpointError: the endpoint failed; this episode is over.
            EndpointRefusedError: it refuses such requests; so is the run.
        """
        names = ToolNames(turn.tools)
        # Half a surrogate pair, which an environment may well have sent, is no Unicode and becomes a question mark.
        body = json.dumps(self._body(turn, names), ensure_ascii=False, allow_nan=False).encode(errors="replace")
        deadline = time.monotonic() + self._retry_seconds
        attempt = 0
        while True:
            try:
                completion = await self._ask(body)
            except _AskAgainError as again:
                delay = backoff_seconds(attempt, 0.5, 20.0)
                delay = delay if again.after_seconds is None else max(again.after_seconds, 0.05)
                if time.monotonic() + delay > deadline:
                    times = f"{attempt + 1} attempt{'s' if attempt else ''}"
                    raise self._failure(f"{again.why} ({times} in {self._retry_seconds:g} s)") from None
                attempt += 1
                await asyncio.sleep(delay)
                continue
            return Reply(truncated=True) if completion is None else completion.reply(self._dialect, names, turn.tools)

    def _body(self, turn: Turn, names: ToolNames) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": chat_messages(turn.messages, names, with_reasoning=self._send_reasoning),
            "stream": self._stream,
        }
        if self._stream:
            body["stream_options"] = {"include_usage": True}
        if len(turn.tools):
            body["tools"] = names.declare(turn.tools)
            if self._dialect.name != "plain":  # the calls are read here: vLLM refuses tools that it should parse
                body["tool_choice"] = "none"
                if self._dialect.special_marks:
                    body["skip_special_tokens"] = False
        limits = [limit for limit in (self._max_tokens, turn.max_tokens) if limit is not None]
        if limits:
            body[self._max_tokens_field] = min(limits)
        return body | self._options

    async def _ask(self, body: bytes) -> Completion | None:
        """Send a request once; None where the conversation is too long for the model."""
        completion = Completion()
        try:
            async with (
                asyncio.timeout(self._silence_seconds) as silence,
                self._transport_here().send("POST", self._target, self._headers, body) as response,
            ):
                if response.status != 200:
                    self._refuse(response, await read_beginning(response))
                    return None
                self._accepted = True
                async for answers in _answers(response):
                    silence.reschedule(asyncio.get_running_loop().time() + self._silence_seconds)
                    for answer in answers:
                        self._take(answer, completion)
        # What happens to the connection after the answer's end does not matter.
        except TimeoutError:
            if not completion.finish_reason:
                raise self._failure(f"the endpoint was silent for {self._silence_seconds:g} s") from None
        except TransportError as error:
            if not (completion.begun or completion.finish_reason):
                raise _AskAgainError(error.message) from None
            if not completion.finish_reason:
                raise self._failure(f"the answer was cut off: {error.message}") from error
        except ProtocolError as error:
            raise self._failure(f"the endpoint's answer makes no sense: {error.message}") from None
        if not completion.finish_reason:
            if completion.begun:
                raise self._failure("the answer was cut off before its end")
            raise _AskAgainError("the answer ended before it began")
        if completion.finish_reason == "content_filter":
            raise self._failure("the endpoint's content filter kept the answer back")
        return completion

    def _take(self, answer: Any, completion: Completion) -> None:
        """Feed a piece of the answer, unless it says that something broke."""
        if answer == DONE:
            completion.end()
            return
        if not isinstance(answer, Mapping) or not cast("JSONObject", answer).get("error"):
            completion.feed(answer)
            return
        error = cast("JSONObject", answer)["error"]
        why = f"the endpoint broke the answer off: {_said(answer)}"
        code = cast("JSONObject", error).get("code") if isinstance(error, Mapping) else None
        if not completion.begun and str(code).isdigit() and _is_passing(int(str(code))):
            raise _AskAgainError(why)
        raise self._failure(why)

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
        """Say what an answer that is no 200 means; return for a conversation that is too long."""
        try:
            said = _said(parse_json(body))
        except ProtocolError:
            said = body.decode(errors="replace").strip()
        status = response.status
        why = f"the endpoint answered {status}: {said[:1000]}" if said else f"the endpoint answered {status}"
        if _is_passing(status):
            raise _AskAgainError(why, retry_after_seconds(response.headers))
        if status in (400, 413, 422) and TOO_LONG.search(said):
            return
        if status in (401, 403, 404) or not self._accepted:
            raise EndpointRefusedError(self._redact(f"{self.url} with model {self.model!r}: {why}"))
        raise self._failure(why)

    def _failure(self, why: str) -> EndpointError:
        return EndpointError(self._redact(why)).at(f"POST {self.url}")


async def _answers(response: TransportResponse) -> AsyncIterator[list[Any]]:
    """The JSON of an answer as it arrives: a stream's chunks, or the whole where the endpoint does not stream.

    Whatever arrives gives a list, which is empty for a comment that only says that the endpoint is alive.
    """
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        yield [parse_json(await response.read())]
        return
    events = EventDecoder()
    async for chunk in response.chunks():
        yield [DONE if data.strip() == DONE else parse_json(data) for _, data in events.feed(chunk)]


def _is_passing(status: int) -> bool:
    """Whether a status speaks of the endpoint's state and not of the request."""
    return status >= 500 or status in (408, 409, 425, 429)


def _said(answer: Any) -> str:
    """What an endpoint says of an error: OpenAI's ``{"error": {"message"}}``, FastAPI's ``detail``, or anything."""
    while isinstance(answer, Mapping):
        fields = cast("JSONObject", answer)
        answer = next((fields[key] for key in ("error", "message", "detail") if fields.get(key)), str(fields))
    return str(answer)
