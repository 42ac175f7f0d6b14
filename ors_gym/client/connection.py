"""Shared by the sessions of a client: the server's URLs, requests, keep-alive and clean-up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from ors_gym.client.creation import CreationForm
from ors_gym.client.hosted import read_secret_names, secrets_path, split_deployment, with_subdomain
from ors_gym.client.janitor_process import DELAYS_SECONDS
from ors_gym.client.keepalive import Pinger
from ors_gym.client.requests import Heard, Request, RequestSender
from ors_gym.errors import NotFoundError, ORSError, ProtocolError, StatusError
from ors_gym.http.sse import EventDecoder
from ors_gym.json_text import encode_json, parse_json
from ors_gym.types import ToolList
from ors_gym.types.shapes import sequence, shown, string

__all__ = ["Connection", "Route", "SessionJournal", "new_session_id"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

MAX_ID_LENGTH = 1024
"""Maximum length of a session id, which is a header of each request."""


class SessionJournal(Protocol):
    """Records the ids of sessions outside of this process, so that another process can delete them."""

    async def opening(self, session_id: str, headers: Mapping[str, str]) -> None:
        """Record a session that is about to be created; if this raises, it is not created.

        ``headers`` are those that its requests carry beside the client's: a deployment, the cookies of a balancer. A
        session whose cookies change is noted again.
        """
        ...

    def deleted(self, session_id: str, /) -> None:
        """Forget a session that the server no longer has."""
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """The URLs of an environment, looked up once."""

    name: str
    """The environment's own name on the server."""
    path: str
    """The prefix of its paths."""
    session_base: str
    """The base URL of ``/create``, ``/ping`` and similar."""
    session_url: str
    """The base URL of requests in a session, with the environment's path."""
    headers: Mapping[str, str]


class Connection:
    """One server, as a client and its sessions see it.

    Args:
        url: the server, without credentials.
        headers: sent with every request.
        hosted: use the hosted platform's layout: ``api.`` and ``sessions.`` before the host.
        sender: sends the requests.
        pinger: keeps idle sessions alive.
        journal: notes every session before it is created and after it was deleted.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        hosted: bool,
        sender: RequestSender,
        pinger: Pinger,
        journal: SessionJournal | None,
    ) -> None:
        self.url = url
        self.headers = headers
        self.hosted = hosted
        self.sender = sender
        self.pinger = pinger
        self.journal = journal
        self.names_tasks = False
        """Whether clients may choose the ``task_id`` of a call, as answers of ``/create`` say."""
        base = url.rstrip("/")
        self.api_base = with_subdomain(base, "api") if hosted else base
        self.session_base = with_subdomain(base, "sessions") if hosted else base
        self.creation_form = CreationForm(secrets_in_header=hosted)
        """The form in which the server accepts secrets and tasks."""
        self.reads_queries: bool | None = None
        """Whether the server accepts a query in its URLs; None while unknown."""
        self.answers_pings: bool | None = None
        """Whether the server has ``/ping``; None while unknown."""
        self._asks_sessions = False
        self._secrets_checked: set[str] = set()
        self._routes: dict[str, Route] = {}
        self._names: asyncio.Task[tuple[str, ...]] | None = None
        self._tools: dict[str, ToolList] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether :meth:`aclose` was called."""
        return self._closing.is_set()

    async def aclose(self) -> None:
        """Delete every session that is left, stop pinging and close every connection.

        What is not deleted within ``Timeouts.close_seconds`` is logged, and left for the server to drop.
        """
        self._closing.set()
        try:
            async with asyncio.timeout(self.sender.timeouts.close_seconds):
                await asyncio.gather(*(session.close() for session in self.pinger.sessions))
                while self._background:
                    await asyncio.wait(self._background)
        except TimeoutError:
            logger.warning("%d deletions of sessions on %s did not end in time", len(self._background), self.url)
            for task in self._background:
                task.cancel()
            await asyncio.gather(*self._background, return_exceptions=True)
        finally:
            await self.pinger.aclose()
            await self.sender.transport.aclose()

    # ---------------------------------------------------------------- requests without a session

    async def list_environments(self) -> tuple[str, ...]:
        """The names of the server's environments; the first is its default."""
        return await self.fetch("GET", "/list_environments", None, self.headers, _read_names)

    async def route(self, env_name: str) -> Route:
        """Look up an environment's URLs in the server's list.

        Servers redirect a path without a known environment to their first one, which would double every request.

        Raises:
            NotFoundError: the server has no such environment.
        """
        known = self._routes.get(env_name)
        if known is not None:
            return known
        headers = dict(self.headers)
        if self.hosted:
            deployment, variant = split_deployment(env_name)
            headers["X-Deployment"] = deployment
            names = await self.fetch("GET", "/list_environments", None, headers, _read_names)
            name = _match(variant or deployment, names)
            if name is None and not variant and len(names) == 1:
                name = names[0]
            where = f"the deployment {deployment!r}"
            advice = f"; name one of several as '{deployment}/{names[0]}'" if names else ""
        else:
            names = await self._known_environments()
            name, where, advice = _match(env_name, names), "the server", ""
        if name is None:
            have = ", ".join(map(repr, names)) or "none"
            raise NotFoundError(404, f"no environment {env_name!r}; {where} has {have}{advice}").at(self.url)
        path = "/" + quote(name, safe="")
        route = Route(name, path, self.session_base, self.session_base + path, headers)
        self._routes[env_name] = route
        return route

    async def required_secrets(self, env_name: str) -> tuple[str, ...]:
        """The names of the secrets that a hosted environment requires; empty if unknown."""
        path = secrets_path(split_deployment(env_name)[0])
        if not self.hosted or path is None:
            return ()
        try:
            return await self.sender.fetch_json(Request("GET", self.api_base + path, self.headers), read_secret_names)
        except NotFoundError:
            return ()

    async def warn_of_missing_secrets(self, env_name: str, given: Collection[str]) -> None:
        """Log once for each environment which required secrets a session lacks."""
        if not self.hosted or env_name in self._secrets_checked:
            return
        self._secrets_checked.add(env_name)
        required: Collection[str] = ()
        with suppress(StatusError, ProtocolError):  # a platform that does not tell
            required = await self.required_secrets(env_name)
        missing = [name for name in required if name not in given]
        if missing:
            logger.warning("%s requires the secrets %s: give them in secrets=", env_name, ", ".join(missing))

    async def _known_environments(self) -> tuple[str, ...]:
        """:meth:`list_environments`, asked once by any number of sessions that open at the same time."""
        if self._names is None:
            self._names = asyncio.create_task(self.list_environments())
            self._names.add_done_callback(self._forget_names)
        return await asyncio.shield(self._names)

    def _forget_names(self, finished: asyncio.Task[tuple[str, ...]]) -> None:
        self._names = None
        if not finished.cancelled():
            finished.exception()

    async def list_tools(self, env_name: str) -> ToolList:
        """The environment's tools. A session may have more: see :meth:`Session.list_tools`."""
        tools = await self.get(env_name, "/tools", ToolList.from_wire)
        self._tools[env_name] = tools
        return tools

    async def known_tools(self, env_name: str) -> ToolList:
        """The result of the last :meth:`list_tools`."""
        known = self._tools.get(env_name)
        return known if known is not None else await self.list_tools(env_name)

    async def get(self, env_name: str, path: str, read: Callable[[Any], T]) -> T:
        """Read something of an environment."""
        route = await self.route(env_name)
        return await self.fetch("GET", route.path + path, None, route.headers, read)

    async def post(self, env_name: str, path: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """Ask an environment something that takes a body."""
        route = await self.route(env_name)
        headers = {**route.headers, "Content-Type": "application/json"}
        return await self.fetch("POST", route.path + path, encode_json(body), headers, read)

    async def fetch(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], read: Callable[[Any], T]
    ) -> T:
        """Ask something that needs no session.

        The specification has the hosted platform answer such requests at ``api.``; the reference client asks them at
        ``sessions.``, under their own session id. Where the first is refused, the second is tried, and kept to.
        """
        if not self._asks_sessions:
            try:
                return await self.sender.fetch_json(Request(method, self.api_base + path, headers, body), read)
            except StatusError as refused:
                if not self.hosted or refused.status not in (400, 404, 405):
                    raise
        base = self.session_base
        sid = await new_session_id(self.sender, Request("POST", f"{base}/create_session", headers, b""))
        headers = {**headers, "X-Session-ID": sid}
        try:
            answer = await self.sender.fetch_json(Request(method, base + path, headers, body), read)
            self._asks_sessions = True
            return answer
        finally:
            await self.sender.fetch(Request("POST", f"{base}/delete_session", headers))

    async def does_read_queries(self, query: str) -> bool:
        """Whether the server accepts a query in its URLs, tried with ``/health`` after a path was not found."""
        if self.reads_queries is None:
            try:
                await self.sender.fetch(Request("GET", f"{self.api_base}/health{query}", self.headers))
            except NotFoundError:
                self.reads_queries = False
            except ORSError:
                return True
            else:
                self.reads_queries = True
        return self.reads_queries

    # ---------------------------------------------------------------- deleting sessions

    def in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` in a task that survives the cancellation of its caller; :meth:`aclose` waits for it."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def delete(self, sid: str, requests: Sequence[Request], *, may_appear: Request | None = None) -> None:
        """Send the requests that delete a session, and tell the journal if it is gone.

        Args:
            sid: the session's id.
            requests: the requests that delete it.
            may_appear: the session's ping, if its creation was given up and may yet succeed: the session is looked for
                several times before it is deleted.
        """
        if may_appear is not None:
            for delay in DELAYS_SECONDS:
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._closing.wait()
                with suppress(ORSError):
                    await self.sender.fetch(may_appear)
                    break
        deadline = time.monotonic() + self.sender.timeouts.close_seconds
        try:
            for request in requests:
                with suppress(NotFoundError):  # gone already, or a server without this route
                    await self.sender.fetch(request, seconds=max(deadline - time.monotonic(), 0.01))
        except ORSError as error:
            logger.warning("session %s was not deleted: %s", sid, error)
            return
        if self.journal is not None:
            self.journal.deleted(sid)


async def new_session_id(sender: RequestSender, request: Request, heard: Heard | None = None) -> str:
    """Ask for a session id: JSON in the specification, events in the reference server."""
    body = await sender.fetch(request, heard=heard)
    try:
        return _checked_id(_session_id(body))
    except ProtocolError as error:
        message = sender.redact(error.message, request)
    raise ProtocolError(message).at(str(request))


def _session_id(body: bytes) -> str:
    if not body.lstrip().startswith(b"{"):
        for name, data in EventDecoder().feed(body + b"\n\n"):
            if name == "task_id" and data.strip():
                return data.strip()
            if name == "error":
                raise ProtocolError(f"no session was created: {data}")
            if name == "end" and data.lstrip().startswith("{"):
                body = data.encode()
    return string(parse_json(body), "sid", "new session")


def _checked_id(sid: str) -> str:
    """A session id that a header can carry."""
    if not sid or len(sid) > MAX_ID_LENGTH or sid != sid.strip() or any(c < " " or c == "\x7f" for c in sid):
        raise ProtocolError(f"a session id must be a short text of one line, got {shown(sid)}")
    if any(c > "\xff" for c in sid):
        raise ProtocolError(f"a session id must be of characters that a header can carry (latin-1), got {shown(sid)}")
    return sid


def _match(env_name: str, names: Sequence[str]) -> str | None:
    """The server's own spelling of ``env_name``: the same but for case, or the same without an owner."""
    by_lower = {name.lower(): name for name in names}
    wanted = env_name.lower()
    return by_lower.get(wanted) or by_lower.get(wanted.rpartition("/")[2])


def _read_names(wire: Any) -> tuple[str, ...]:
    return tuple(_name(name) for name in sequence(wire, "environment names"))


def _name(wire: Any) -> str:
    if isinstance(wire, str) and wire:
        return wire
    raise ProtocolError(f"an environment's name must be a string, got {shown(wire)}")
