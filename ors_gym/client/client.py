"""The client of one ORS server: what environments, tasks and tools it has, and sessions on them.

::

    async with ORSClient("http://localhost:8080") as client:
        async with client.session("wordle", split="train", index=3) as session:
            prompt = await session.get_prompt()
            output = await session.call_tool("guess", {"word": "crane"})
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ors_gym.client.keepalive import PING_SECONDS, Pinger
from ors_gym.client.requests import Request, RequestSender
from ors_gym.client.session import Session, SessionJournal, SessionState, delete_session, new_session_id
from ors_gym.client.timeouts import Timeouts
from ors_gym.errors import NotFoundError, ORSError, ProtocolError, StatusError
from ors_gym.http.factory import files_allowed, make_transport
from ors_gym.json_text import encode_json
from ors_gym.types import Split, Task, ToolList, required, sequence

if TYPE_CHECKING:
    import httpx

__all__ = ["ORSClient", "Session", "SessionState", "Timeouts"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

PAGE = 1000
"""How many tasks are asked for at once where a server refuses to list them all."""

KEY_HEADERS = ("x-api-key", "authorization", "proxy-authorization", "cookie")
"""The headers whose values no error may hold."""

DELETION_DELAYS_SECONDS = (0.0, 1.0, 5.0, 30.0)
"""When to look for, and delete, a session whose creation was given up and may yet succeed on the server."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where an environment's requests go, found once for each environment."""

    name: str
    """The environment's own name on the server."""
    path: str
    """What the paths of its requests begin with."""
    session_base: str
    """Of ``/create``, ``/ping`` and the like."""
    session_url: str
    """Of requests in a session, up to and including the environment's path."""
    headers: Mapping[str, str]


class ORSClient:
    """The client of one ORS server; safe for any number of concurrent sessions on one event loop.

    Args:
        url: the server, used as it is. With ``hosted`` the platform's address, before which ``api.`` and
            ``sessions.`` are put.
        api_key: sent as ``X-API-Key``; in no log, error or repr.
        hosted: use the hosted platform's layout; environment names are ``owner/name``.
        timeouts: how long each kind of wait may last.
        headers: sent with every request.
        transport, http_client, auth, proxy: httpx's own; requests then travel through httpx instead of the faster
            default. An ``http_client`` is used as it is and never closed. Proxies set in the environment
            (``HTTP_PROXY``, …) are honoured too.
        verify: how certificates are verified: an ``ssl.SSLContext``, or False for not at all.
        max_connections: how many requests may be under way at once; the rest wait. None is three quarters of the
            files this process may open. A tool call counts as long as it runs; pings and deletions do not wait for it.
        ping_seconds: how old a session's last request may become before it is pinged.
        journal: told of every session before it is created and after it was deleted, for whoever may have to clean up
            behind this process.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        hosted: bool = False,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  (frozen)
        headers: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        http_client: httpx.AsyncClient | None = None,
        auth: httpx.Auth | tuple[str, str] | None = None,
        proxy: httpx.Proxy | str | None = None,
        verify: ssl.SSLContext | bool = True,
        max_connections: int | None = None,
        ping_seconds: float = PING_SECONDS,
        journal: SessionJournal | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"an ORS server's url begins with http:// or https://, got {_shown(url)!r}")
        if http_client is not None and not (transport is None and auth is None and proxy is None):
            raise ValueError("give transport, auth and proxy to the http_client instead of beside it")
        if max_connections is not None and max_connections < 1:
            raise ValueError(f"max_connections must be at least 1, or None, got {max_connections}")
        self.url = _shown(url)
        """The server, without credentials."""
        self.hosted = hosted
        base = self.url.rstrip("/")
        self._api_base = _with_subdomain(base, "api") if hosted else base
        self._session_base = _with_subdomain(base, "sessions") if hosted else base
        self._headers = {"User-Agent": "ors-gym", "Accept": "*/*", **(headers or {})}
        if parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(credentials.encode()).decode()}"
        if api_key is not None:
            self._headers["X-API-Key"] = api_key
        carrier = make_transport(base, timeouts.connect_seconds, transport, http_client, auth, proxy, verify)
        keys = [value for name, value in self._headers.items() if name.lower() in KEY_HEADERS]
        hidden = (*keys, *(key.rpartition(" ")[2] for key in keys), unquote(parts.password or ""), parts.password or "")
        limit = files_allowed() * 3 // 4 if max_connections is None else max_connections
        self.sender = RequestSender(carrier, timeouts, max_requests=limit, hidden=tuple(filter(None, hidden)))
        self.pinger = Pinger(ping_seconds)
        self.journal = journal
        self.names_tasks = False
        """Whether clients may choose the ``task_id`` of a call, as the server says when it creates a session."""
        self._routes: dict[str, Route] = {}
        self._names: asyncio.Task[tuple[str, ...]] | None = None
        self._tools: dict[str, ToolList] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether :meth:`aclose` was called."""
        return self._closing.is_set()

    def __repr__(self) -> str:
        return f"<ORSClient {self.url}{', hosted' if self.hosted else ''}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

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

    # ---------------------------------------------------------------- what there is

    async def health(self) -> bool:
        """Whether the server says that it is well.

        Raises:
            ORSError: it cannot be reached, or says something else.
        """
        request = Request("GET", f"{self._api_base}/health", self._headers)
        status: object = await self.sender.fetch_json(request, lambda wire: required(wire, "status", "health"))
        return status == "ok"

    async def list_environments(self) -> tuple[str, ...]:
        """The names of the server's environments; the first is its default."""
        return await self._fetch("GET", "/list_environments", None, self._headers, _read_names)

    async def route(self, env_name: str) -> Route:
        """Find where an environment's requests go: one look at the server's list for each environment.

        A path that begins with no known environment is redirected to the server's first one, and every request
        costs two.

        Raises:
            NotFoundError: the server has no such environment.
        """
        known = self._routes.get(env_name)
        if known is not None:
            return known
        headers = dict(self._headers)
        if self.hosted:
            headers["X-Deployment"] = env_name
            names = await self._fetch("GET", "/list_environments", None, headers, _read_names)
        else:
            names = await self._known_environments()
        name = _match(env_name, names)
        if name is None and self.hosted and names:
            name = names[0]
        if name is None:
            have = ", ".join(map(repr, names)) or "none"
            raise NotFoundError(404, f"no environment {env_name!r}; the server has {have}").at(self.url)
        path = "/" + quote(name, safe="")
        route = Route(name, path, self._session_base, self._session_base + path, headers)
        self._routes[env_name] = route
        return route

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

    async def list_splits(self, env_name: str) -> tuple[Split, ...]:
        """The environment's splits."""
        return await self._get(env_name, "/splits", _read_splits)

    async def list_tools(self, env_name: str) -> ToolList:
        """The environment's tools. A session may have more: see :meth:`Session.list_tools`."""
        tools = await self._get(env_name, "/tools", ToolList.from_wire)
        self._tools[env_name] = tools
        return tools

    async def known_tools(self, env_name: str) -> ToolList:
        """:meth:`list_tools`, as it was when it was last asked for."""
        known = self._tools.get(env_name)
        return known if known is not None else await self.list_tools(env_name)

    async def num_tasks(self, env_name: str, split: str) -> int:
        """How many tasks a split has."""
        return await self._post(env_name, "/num_tasks", {"split": split}, _read_count)

    async def get_task(self, env_name: str, split: str, index: int) -> Task:
        """The task at ``index`` of a split; negative indices count from the end, as in Python."""
        return await self._post(env_name, "/task", {"split": split, "index": index}, _read_task)

    async def get_tasks(
        self, env_name: str, split: str, start: int | None = None, stop: int | None = None
    ) -> tuple[Task, ...]:
        """The tasks ``[start:stop]`` of a split, by the rules of Python slices."""
        body: dict[str, Any] = {"split": split, "start": start, "stop": stop}
        body = {key: value for key, value in body.items() if value is not None}
        return await self._post(env_name, "/task_range", body, _read_tasks)

    async def list_tasks(self, env_name: str, split: str) -> tuple[Task, ...]:
        """All tasks of a split, page by page where the environment refuses to list them at once."""
        try:
            return await self._post(env_name, "/tasks", {"split": split}, _read_tasks)
        except StatusError as refused:
            if refused.status not in (400, 404, 405, 413, 501):
                raise
            pages: list[Task] = []
            try:
                count = await self.num_tasks(env_name, split)
            except StatusError:
                raise refused from None
            for start in range(0, count, PAGE):
                pages.extend(await self.get_tasks(env_name, split, start, min(start + PAGE, count)))
            return tuple(pages)

    async def iterate_tasks(self, env_name: str, split: str) -> AsyncIterator[Task]:
        """Iterate over the tasks of a split page by page, for splits too large to hold."""
        count = await self.num_tasks(env_name, split)
        for start in range(0, count, PAGE):
            for task in await self.get_tasks(env_name, split, start, min(start + PAGE, count)):
                yield task

    async def _get(self, env_name: str, path: str, read: Callable[[Any], T]) -> T:
        route = await self.route(env_name)
        return await self._fetch("GET", route.path + path, None, route.headers, read)

    async def _post(self, env_name: str, path: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        route = await self.route(env_name)
        headers = {**route.headers, "Content-Type": "application/json"}
        return await self._fetch("POST", route.path + path, encode_json(body), headers, read)

    async def _fetch(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], read: Callable[[Any], T]
    ) -> T:
        """Ask something that needs no session.

        The specification has the hosted platform answer such requests at ``api.``; the reference client asks them at
        ``sessions.``, under a session id of their own. Where the first is refused, the second is tried.
        """
        try:
            return await self.sender.fetch_json(Request(method, self._api_base + path, headers, body), read)
        except StatusError as refused:
            if not self.hosted or refused.status not in (400, 404, 405):
                raise
        base = self._session_base
        sid = await new_session_id(self.sender, Request("POST", f"{base}/create_session", headers, b""))
        headers = {**headers, "X-Session-ID": sid}
        try:
            return await self.sender.fetch_json(Request(method, base + path, headers, body), read)
        finally:
            await self.sender.fetch(Request("POST", f"{base}/delete_session", headers))

    # ---------------------------------------------------------------- sessions

    def session(
        self,
        env_name: str,
        *,
        split: str | None = None,
        index: int | None = None,
        task: Task | None = None,
        secrets: Mapping[str, str | tuple[str, Sequence[str]]] | None = None,
        toolset: str | None = None,
    ) -> Session:
        """One episode: a task by ``split`` and ``index``, or a ``task`` object.

        Args:
            env_name: the environment, as :meth:`list_environments` names it.
            split: the task's split.
            index: the task's index in the split.
            task: the task itself, as :meth:`get_task` gives it or of your own.
            secrets: values by name, or pairs of a value and the domains it may be sent to. They go to the server and
                nowhere else.
            toolset: the name of a set of tools that the server adds to the environment's.
        """
        by_index = split is not None and index is not None
        if by_index == (task is not None) or (split is None) != (index is None):
            raise ValueError("a session needs either split and index, or a task")
        source: dict[str, Any] = {"task_spec": dict(task)} if task is not None else {"split": split, "index": index}
        headers, hidden = _secret_headers(secrets or {})
        return Session(self, env_name, source, headers, hidden, toolset)

    def in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` to its end, whoever waits for it; :meth:`aclose` does."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def delete_session(self, env_name: str, session_id: str) -> bool:
        """Delete a session whose owner is gone, such as a process that died. :meth:`Session.close` is the usual way.

        Returns:
            Whether the server had it. One that was just being created may still come to exist.

        Raises:
            ORSError: the server could not be asked.
        """
        route = await self.route(env_name)
        headers = {**route.headers, "X-Session-ID": session_id}
        ping, *deletions = (
            Request("POST", route.session_base + path, headers, urgent=True)
            for path in ("/ping", "/delete", "/delete_session")
        )
        try:
            await self.sender.fetch(ping)
        except StatusError as error:
            if error.status in (404, 410):
                return False
            raise
        with suppress(NotFoundError):  # deleted meanwhile, or a server without this route
            for request in deletions:
                await self.sender.fetch(request, seconds=self.sender.timeouts.close_seconds)
        return True

    async def delete_and_note(self, sid: str, requests: Sequence[Request]) -> None:
        """Send the requests that delete a session, and tell the journal if it is gone."""
        if await delete_session(self.sender, sid, requests) and self.journal is not None:
            self.journal.deleted(sid)

    def delete_abandoned(self, sid: str, ping: Request, deletions: Sequence[Request]) -> None:
        """Delete a session whose creation was given up: it may not exist yet, and come to exist later."""
        self.in_background(self._delete_abandoned(sid, ping, deletions))

    async def _delete_abandoned(self, sid: str, ping: Request, deletions: Sequence[Request]) -> None:
        for delay in DELETION_DELAYS_SECONDS:
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._closing.wait()
            with suppress(ORSError):
                await self.sender.fetch(ping)
                break
        await self.delete_and_note(sid, deletions)


def _shown(url: str) -> str:
    """``url`` without credentials."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _with_subdomain(url: str, name: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{name}.{parts.netloc}"))


def _match(env_name: str, names: Sequence[str]) -> str | None:
    """The server's own spelling of ``env_name``: the same but for case, or the same without an owner."""
    by_lower = {name.lower(): name for name in names}
    wanted = env_name.lower()
    return by_lower.get(wanted) or by_lower.get(wanted.rpartition("/")[2])


def _secret_headers(
    secrets: Mapping[str, str | tuple[str, Sequence[str]]],
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The header that carries the secrets, and the texts that no error may hold."""
    if not secrets:
        return {}, ()
    wire: dict[str, dict[str, Any]] = {}
    for name, secret in secrets.items():
        if isinstance(secret, str):
            wire[name] = {"value": secret}
        else:
            wire[name] = {"value": secret[0], "allowed_domains": list(secret[1])}
    header = base64.b64encode(json.dumps(wire).encode()).decode()
    values = [each["value"] for each in wire.values() if each["value"]]
    quoted = [write(value)[1:-1] for value in values for write in (json.dumps, repr)]
    return {"X-Secrets": header}, (header, *values, *quoted)


def _read_names(wire: Any) -> tuple[str, ...]:
    return tuple(str(name) for name in sequence(wire, "environment names"))


def _read_splits(wire: Any) -> tuple[Split, ...]:
    return tuple(Split.from_wire(split) for split in sequence(wire, "splits"))


def _read_count(wire: Any) -> int:
    count = required(wire, "num_tasks", "task count")
    if not isinstance(count, int):
        raise ProtocolError(f"num_tasks must be an integer, got {count!r}")
    return count


def _read_task(wire: Any) -> Task:
    task: Task = required(wire, "task", "task")
    return task


def _read_tasks(wire: Any) -> tuple[Task, ...]:
    return tuple(sequence(required(wire, "tasks", "task list"), "tasks"))
