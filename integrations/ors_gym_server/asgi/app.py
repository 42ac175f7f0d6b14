"""The server as an ASGI application: the endpoints of the Open Reward Standard.

``/call`` has its own fast path; the other endpoints are a table (``endpoints.py``). A path names its environment
(``/wordle/tools``); without one (``/tools``) it is the first environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from ors_gym.http.answers import (
    EVENT_STREAM,
    PIECE_BYTES,
    Message,
    Receive,
    RefusedError,
    Scope,
    Send,
    refuse,
    send_body,
    send_json,
    send_session_id,
)
from ors_gym_server.asgi import requests
from ors_gym_server.asgi.endpoints import Service, answer, methods_of
from ors_gym_server.asgi.processes import warn_of_several_processes
from ors_gym_server.runtime.calls import PING, RunningCall, error_events, task_id_event
from ors_gym_server.runtime.hosting import HostedEnvironment
from ors_gym_server.runtime.limits import Limits
from ors_gym_server.runtime.sessions import Sessions
from ors_gym_server.runtime.wire import error_text
from ors_gym_server.threads import SessionThreads

__all__ = ["ORSApp", "create_app"]

logger = logging.getLogger(__name__)

ATTENTIVE_SECONDS = 0.25
"""Delay before watching for the client's disconnect, to know whether it read the result."""


class ORSApp:
    """Environments as an ASGI application. Its sessions are torn down at the end of its lifespan.

    An application that mounts it does not run its lifespan; pass :meth:`lifespan` on::

        app = create_app([MyEnvironment])
        site = FastAPI(lifespan=app.lifespan)
        site.mount("/envs", app)
    """

    def __init__(
        self,
        environments: Sequence[type],
        *,
        api_key: str | None = None,
        limits: Limits | None = None,
        toolsets: Mapping[str, type] | None = None,
    ) -> None:
        if not environments:
            raise ValueError("a server needs at least one environment")
        if api_key is not None and not api_key:
            raise ValueError("the API key is empty")
        self.limits = limits = limits or Limits()
        self.workers = SessionThreads()
        self.environments: dict[str, HostedEnvironment] = {}
        for cls in environments:
            hosted = HostedEnvironment(cls, self.workers, toolsets)
            if hosted.name in self.environments:
                raise ValueError(f"two environments are named {hosted.name!r}")
            self.environments[hosted.name] = hosted
        self.sessions = Sessions(limits)
        self._service = Service(self.environments, self.sessions)
        self._api_key = None if api_key is None else api_key.encode()
        self._call_paths = {"/call", *(f"/{name}/call" for name in self.environments)}
        self._has_lifespan = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http":
            try:
                await self._serve(scope, receive, send)
            except RefusedError as refused:
                await refuse(send, refused)
            except Exception as error:  # from the environment's class, for example its list of tasks
                logger.exception("%s %s failed", scope["method"], scope["path"])
                await refuse(send, RefusedError(500, error_text(error)))
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with self.lifespan():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """The application's lifespan, for one that mounts it; at its end all sessions are closed.

        Args:
            app: The application that mounts this one, which Starlette and FastAPI pass; not used.
        """
        self._has_lifespan = True
        self.sessions.reopen()
        warn_of_several_processes()
        try:
            yield
        finally:
            await self.aclose()

    @property
    def http_protocol(self) -> type[Any]:
        """A protocol class for ``uvicorn.Config(http=…)`` with this server's limits on connections.

        Its connections have ``end_if_overdue(now)``, which the uvicorn server's ``on_tick`` must call for each.
        :func:`~ors_gym_server.serve` and Ray Serve's replicas do.
        """
        from ors_gym_server.asgi.protocol import limited_protocol  # needs uvicorn, which other servers run without

        return limited_protocol(self.limits)

    @property
    def num_sessions(self) -> int:
        """Number of open sessions."""
        return len(self.sessions)

    async def aclose(self) -> None:
        """Close all sessions, with their teardown, and end the threads."""
        await self.sessions.close_all()
        for hosted in self.environments.values():
            hosted.close()
        self.workers.close()

    # ---------------------------------------------------------------- requests

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if root := scope.get("root_path"):
            path = path.removeprefix(root)
        sid = key = authorization = secrets = b""
        length = 0
        for name, value in scope["headers"]:
            if name == b"x-session-id":
                sid = value
            elif name == b"x-api-key":
                key = value
            elif name == b"content-length":
                length = int(value) if value.isdigit() and len(value) < 20 else 0
            elif name == b"x-secrets":
                secrets = value
            elif name == b"authorization":
                authorization = value
        if self._api_key is not None and path != "/health":
            self._authenticate(key or _bearer(authorization))
        method = scope["method"]
        is_post = method == "POST"
        body = await self._body(receive, length) if is_post else b""
        if is_post and path in self._call_paths:
            await self._call(sid, body, receive, send)
            return
        request = requests.ClientRequest(sid.decode("latin-1").strip(), secrets, body)
        prefix, _, endpoint = path.strip("/").rpartition("/")
        if endpoint == "call" and is_post:
            self._service.environment(prefix)
            await self._call(sid, body, receive, send)
        elif endpoint == "score_group" and is_post:
            self._service.environment(prefix)
            await self._score_group(request, receive, send)
        elif endpoint == "create_session" and is_post and not prefix:
            await send_session_id(scope, send, str(uuid.uuid4()))
        elif method == "OPTIONS" and (allowed := methods_of(prefix, endpoint)):
            await send_json(send, b"{}", headers=[(b"allow", allowed.encode())])
        else:
            if endpoint == "create" and not self._has_lifespan:
                self._warn_of_no_lifespan()
            method = "GET" if method == "HEAD" else method  # the ASGI server leaves the body out
            await send_json(send, await answer(self._service, method, prefix, endpoint, request))

    def _authenticate(self, key: bytes) -> None:
        assert self._api_key is not None
        if not hmac.compare_digest(key, self._api_key):
            raise RefusedError(401, "the API key is missing or wrong; send it as X-API-Key")

    def _warn_of_no_lifespan(self) -> None:
        self._has_lifespan = True  # once is enough
        logger.warning(
            "the lifespan of the ORS application never began, so nothing will tear its sessions down when the server "
            "stops: give lifespan=app.lifespan to the application that mounts it, or use `async with app.lifespan()`"
        )

    async def _body(self, receive: Receive, length: int) -> bytes:
        if length > self.limits.max_request_bytes:
            raise self._too_large()
        message = await receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            pieces = [body]
            size = len(body)
            while message.get("more_body"):
                message = await receive()
                pieces.append(message.get("body", b""))
                size += len(pieces[-1])
                if size > self.limits.max_request_bytes:
                    raise self._too_large()
            body = b"".join(pieces)
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "the request was cut off")
        return body

    def _too_large(self) -> RefusedError:
        return RefusedError(
            413, f"the request is larger than the server's limit of {self.limits.max_request_bytes} bytes"
        )

    # ---------------------------------------------------------------- calls

    async def _call(self, sid: bytes, body: bytes, receive: Receive, send: Send) -> None:
        if not sid:
            raise RefusedError(400, "X-Session-ID header is required")
        name, input, task_id = requests.read_call(body)
        session = await self.sessions.ready(sid.decode("latin-1").strip())
        if task_id is not None and task_id in session.calls:
            await self._replay(task_id, session.calls[task_id], receive, send)
            return
        call = self.sessions.start(session, name, session.episode.call(name, input), task_id)
        await self._listen(call, receive, send)

    async def _score_group(self, request: requests.ClientRequest, receive: Receive, send: Send) -> None:
        session = await self.sessions.ready(request.require_sid())
        if not session.hosted.tools["supports_score_group"]:
            raise RefusedError(404, f"Environment {session.hosted.name!r} does not implement score_group")
        asked = request.read(requests.ScoreGroup)
        if asked.task_id is not None and asked.task_id in session.calls:
            await self._replay(asked.task_id, session.calls[asked.task_id], receive, send)
            return
        candidates = [candidate.model_dump() for candidate in asked.candidates]
        work = session.episode.score_group(candidates)
        await self._listen(self.sessions.start(session, "score_group", work, asked.task_id), receive, send)

    async def _replay(self, task_id: str, call: RunningCall | bytes | None, receive: Receive, send: Send) -> None:
        """Answer a client that resumes a call."""
        if isinstance(call, RunningCall):
            await self._listen(call, receive, send)
            return
        await send(EVENT_STREAM)
        if call is None:
            await send_body(send, error_events("unknown task_id"))
        else:
            await self._send_end(send, task_id_event(task_id), call)

    async def _listen(self, call: RunningCall, receive: Receive, send: Send) -> None:
        """Stream a call's events."""
        call.listeners += 1
        await asyncio.sleep(0)  # an instant tool has ended by then, and its answer is one write
        events = call.events
        await send(EVENT_STREAM)
        head = task_id_event(call.task_id)
        if events is None:
            await send({"type": "http.response.body", "body": head, "more_body": True})
            head = b""
            events = await call.wait(ATTENTIVE_SECONDS) or await self._wait(call, receive, send)
        await self._send_end(send, head, events)

    @staticmethod
    async def _send_end(send: Send, head: bytes, events: bytes) -> None:
        """Send the end of a call; short ones in one write."""
        if head and len(events) > PIECE_BYTES:
            await send({"type": "http.response.body", "body": head, "more_body": True})
            head = b""
        await send_body(send, head + events if head else events)

    async def _wait(self, call: RunningCall, receive: Receive, send: Send) -> bytes:
        """Wait for a slow tool, send comments, and notice when the client disconnects."""

        def leave(_: asyncio.Task[Message]) -> None:
            call.listeners -= 1

        gone = asyncio.ensure_future(receive())
        gone.add_done_callback(leave)
        try:
            while (events := await call.wait(self.limits.ping_seconds)) is None:
                await send({"type": "http.response.body", "body": PING, "more_body": True})
            return events
        finally:
            gone.remove_done_callback(leave)
            gone.cancel()


def _bearer(authorization: bytes) -> bytes:
    scheme, _, token = authorization.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def create_app(
    environments: Sequence[type],
    *,
    api_key: str | None = None,
    limits: Limits | None = None,
    toolsets: Mapping[str, type] | None = None,
) -> ORSApp:
    """The environments as an ASGI application; :func:`~ors_gym_server.run.serve` runs it.

    Args:
        environments: environment classes, also those written for ``openreward.environments``, unchanged. The first one
            is the default.
        api_key: the key that clients must send as ``X-API-Key`` or as a bearer token; None accepts all clients.
        limits: limits of the server.
        toolsets: toolset classes that clients may request by name when they create a session; the default for classes
            of the reference SDK is the SDK's own.

    Raises:
        TypeError, ValueError: something is wrong with an environment class; the message says what.
    """
    return ORSApp(environments, api_key=api_key, limits=limits, toolsets=toolsets)
