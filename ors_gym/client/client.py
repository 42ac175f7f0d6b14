"""The client of one ORS server: its environments, tasks and tools, and sessions on them.

::

    async with ORSClient("http://localhost:8080") as client:
        async with client.session("wordle", split="train", index=3) as session:
            prompt = await session.get_prompt()
            output = await session.call_tool("guess", {"word": "crane"})
"""

from __future__ import annotations

import base64
import logging
import os
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from ors_gym.client.address import Address, key_from_environment
from ors_gym.client.arguments import check_header, check_number, check_strings, check_type, types_in_words
from ors_gym.client.connection import Connection, SessionJournal
from ors_gym.client.creation import Creation, Secrets, check_secrets
from ors_gym.client.hosted import CATALOGUE, platform_secrets, read_catalogue
from ors_gym.client.keepalive import PING_SECONDS, Pinger
from ors_gym.client.requests import Request, RequestSender
from ors_gym.client.session import Session, SessionState
from ors_gym.client.timeouts import Timeouts
from ors_gym.errors import NotFoundError, ProtocolError, StatusError
from ors_gym.http.factory import files_allowed, make_transport
from ors_gym.http.httpx_transport import HTTPXClient
from ors_gym.http.tls import Certificate, Verify
from ors_gym.http.url import ServerURL
from ors_gym.redaction import Redactor
from ors_gym.types import Split, Task, ToolList
from ors_gym.types.shapes import required, sequence, shown

if TYPE_CHECKING:
    import httpx

__all__ = ["ORSClient", "Session", "SessionState", "Timeouts"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

PAGE = 1000
"""Page size for tasks that a server does not list all at once."""

NO_ROUTE = (404, 405, 501)
"""Statuses of a missing route."""

KEY_HEADERS = ("x-api-key", "authorization", "proxy-authorization", "cookie")
"""Headers whose values are redacted in errors."""


class ORSClient:
    """The client of one ORS server; safe for any number of concurrent sessions on one event loop.

    Args:
        url: the server, used as it is; or ``owner/name`` or ``owner/name@variant``, an environment of the hosted
            catalogue (:mod:`ors_gym.client.address`). With ``hosted`` the platform's address, before which ``api.`` and
            ``sessions.`` are put.
        api_key: sent as ``X-API-Key``; in no log, error or repr. None reads the variable ``ORS_API_KEY``, for the
            hosted platform ``OPENREWARD_API_KEY`` before it; empty sends none.
        hosted: use the hosted platform's layout; environment names are ``owner/name``, or ``owner/name/variant`` where
            a deployment has several. As the reference SDK does, sessions are given the key as the secrets ``api_key``
            and ``OPENREWARD_API_KEY``, for the platform's own hosts only.
        timeouts: the limit of each kind of wait.
        headers: sent with every request.
        transport, http_client, auth, proxy: httpx's own; requests then travel through httpx instead of the faster
            default. An ``http_client`` (of httpx or httpx2) is used as it is and never closed. Proxies set in the
            environment (``HTTP_PROXY``, …) are honoured too.
        verify: a file or folder with the certificates of a private authority; True for the usual ones, or those that
            ``SSL_CERT_FILE`` names; False for no verification. An ``ssl.SSLContext`` works too, but cannot be pickled.
        cert: a client certificate: one file that includes the key, or a pair of files.
        max_connections: maximum concurrent requests; others wait. None means three quarters of this process's limit of
            open files. A tool call counts while it runs; pings and deletions do not wait for it.
        ping_seconds: idle time after which a session is pinged.
        journal: records every session before its creation and after its deletion, so that another process can clean up.
    """

    @types_in_words
    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        hosted: bool = False,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  (frozen)
        headers: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        http_client: HTTPXClient | None = None,
        auth: httpx.Auth | tuple[str, str] | None = None,
        proxy: httpx.Proxy | str | None = None,
        verify: Verify = True,
        cert: Certificate | None = None,
        max_connections: int | None = None,
        ping_seconds: float = PING_SECONDS,
        journal: SessionJournal | None = None,
    ) -> None:
        check_type("api_key", api_key, str)
        check_type("hosted", hosted, bool, none=False)
        check_type("timeouts", timeouts, Timeouts, none=False)
        check_strings("headers", headers)
        check_type("verify", verify, ssl.SSLContext, bool, str, os.PathLike, none=False, what="True, False, a path")
        check_type("cert", cert, str, os.PathLike, tuple, what="a path or a pair of paths")
        check_number("max_connections", max_connections, whole=True)
        check_number("ping_seconds", ping_seconds, none=False)
        address = Address.of(url)
        hosted = hosted or address.hosted
        parsed = ServerURL.parse(address.url)
        if http_client is not None and not (transport is None and auth is None and proxy is None):
            raise ValueError("give transport, auth and proxy to the http_client instead of beside it")
        if max_connections is not None and max_connections < 1:
            raise ValueError(f"max_connections must be at least 1, or None, got {max_connections}")
        self.url = parsed.text
        """The server, without credentials."""
        self.env_name = address.env_name
        """The environment of the hosted catalogue that was named instead of a URL; empty otherwise."""
        self.hosted = hosted
        sent = {"User-Agent": "ors-gym", "Accept": "*/*", **(headers or {})}
        if parsed.username is not None:
            credentials = f"{parsed.username}:{parsed.password or ''}"
            sent["Authorization"] = f"Basic {base64.b64encode(credentials.encode()).decode()}"
        if api_key is None and not any(name.lower() == "x-api-key" for name in sent):
            api_key = key_from_environment(hosted=hosted)
        if api_key:
            sent["X-API-Key"] = api_key
        for name, value in sent.items():
            check_header("api_key" if name == "X-API-Key" else f"the header {name!r}", name, value)
        carrier = make_transport(self.url, timeouts.connect_seconds, transport, http_client, auth, proxy, verify, cert)
        keys = [value for name, value in sent.items() if name.lower() in KEY_HEADERS]
        hidden = (*keys, *(key.rpartition(" ")[2] for key in keys), parsed.password or "")
        limit = files_allowed() * 3 // 4 if max_connections is None else max_connections
        sender = RequestSender(carrier, timeouts, max_requests=limit, redact=Redactor(hidden))
        self.connection = Connection(
            self.url, sent, hosted=hosted, sender=sender, pinger=Pinger(ping_seconds), journal=journal
        )
        """The part that the client and its sessions share."""
        self._tasks: dict[tuple[str, str], tuple[Task, ...]] = {}

    @property
    def closed(self) -> bool:
        """Whether :meth:`aclose` was called."""
        return self.connection.closed

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
        await self.connection.aclose()

    # ---------------------------------------------------------------- what there is

    async def health(self) -> bool:
        """Whether the server reports that it is healthy.

        Raises:
            ORSError: it cannot be reached or reports something else.
        """
        request = Request("GET", f"{self.connection.api_base}/health", self.connection.headers)
        status: object = await self.connection.sender.fetch_json(
            request, lambda wire: required(wire, "status", "health")
        )
        return status == "ok"

    async def version(self) -> str:
        """The version that the server reports.

        Raises:
            NotFoundError: it reports none.
        """
        connection = self.connection
        return await connection.fetch("GET", "/version", None, connection.headers, _read_version)

    async def list_environments(self) -> tuple[str, ...]:
        """The names of the server's environments, its default first; of the catalogue, the one that was named."""
        return (self.env_name,) if self.env_name else await self.connection.list_environments()

    async def list_catalogue(self, offset: int = 0) -> tuple[tuple[str, str], ...]:
        """A hundred environments of the hosted catalogue, each ``owner/name`` with its description.

        Raises:
            AuthenticationError: the key does not allow it.
        """
        connection = self.connection
        request = Request("GET", f"{connection.api_base}{CATALOGUE}?limit=100&offset={offset}", connection.headers)
        return await connection.sender.fetch_json(request, read_catalogue)

    async def list_splits(self, env_name: str) -> tuple[Split, ...]:
        """The environment's splits."""
        return await self.connection.get(env_name, "/splits", _read_splits)

    async def list_required_secrets(self, env_name: str) -> tuple[str, ...]:
        """The names of the secrets that a session of a hosted environment must be given; none on other servers."""
        return await self.connection.required_secrets(env_name)

    async def list_tools(self, env_name: str) -> ToolList:
        """The environment's tools. A session may have more: see :meth:`Session.list_tools`."""
        return await self.connection.list_tools(env_name)

    async def known_tools(self, env_name: str) -> ToolList:
        """The result of the last :meth:`list_tools`."""
        return await self.connection.known_tools(env_name)

    async def num_tasks(self, env_name: str, split: str) -> int:
        """Number of tasks in a split, counted from the list where the server does not count them."""
        try:
            return await self.connection.post(env_name, "/num_tasks", {"split": split}, _read_count)
        except StatusError as refused:
            return len(await self._listed(env_name, split, refused))

    async def get_task(self, env_name: str, split: str, index: int) -> Task:
        """The task at ``index`` of a split; negative indices count from the end, as in Python."""
        try:
            return await self.connection.post(env_name, "/task", {"split": split, "index": index}, _read_task)
        except StatusError as refused:
            tasks = await self._listed(env_name, split, refused)
            if not -len(tasks) <= index < len(tasks):
                raise NotFoundError(404, f"no task {index}: split {split!r} of {env_name!r} has {len(tasks)}") from None
            return tasks[index]

    async def get_tasks(
        self, env_name: str, split: str, start: int | None = None, stop: int | None = None
    ) -> tuple[Task, ...]:
        """The tasks ``[start:stop]`` of a split, by the rules of Python slices."""
        body: dict[str, Any] = {"split": split, "start": start, "stop": stop}
        body = {key: value for key, value in body.items() if value is not None}
        try:
            return await self.connection.post(env_name, "/task_range", body, _read_tasks)
        except StatusError as refused:
            return (await self._listed(env_name, split, refused))[start:stop]

    async def list_tasks(self, env_name: str, split: str) -> tuple[Task, ...]:
        """All tasks of a split, page by page where the environment refuses to list them at once."""
        try:
            return await self.connection.post(env_name, "/tasks", {"split": split}, _read_tasks)
        except StatusError as refused:
            if refused.status not in (*NO_ROUTE, 400, 413):
                raise
            pages: list[Task] = []
            body = {"split": split}
            try:
                count = await self.connection.post(env_name, "/num_tasks", body, _read_count)
                for start in range(0, count, PAGE):
                    body_of_page = body | {"start": start, "stop": min(start + PAGE, count)}
                    pages.extend(await self.connection.post(env_name, "/task_range", body_of_page, _read_tasks))
            except StatusError:
                raise refused from None
            return tuple(pages)

    async def _listed(self, env_name: str, split: str, refused: StatusError) -> tuple[Task, ...]:
        """The tasks of a split on a server without the route that ``refused``; listed once, as they do not change."""
        if refused.status not in NO_ROUTE:
            raise refused
        tasks = self._tasks.get((env_name, split))
        if tasks is None:
            try:
                tasks = await self.connection.post(env_name, "/tasks", {"split": split}, _read_tasks)
            except StatusError:
                raise refused from None
            self._tasks[env_name, split] = tasks
        return tasks

    # ---------------------------------------------------------------- sessions

    def session(
        self,
        env_name: str,
        *,
        split: str | None = None,
        index: int | None = None,
        task: Task | None = None,
        secrets: Secrets | None = None,
        toolset: str | None = None,
    ) -> Session:
        """One episode: a task by ``split`` and ``index``, or a ``task`` object.

        Args:
            env_name: the environment, as :meth:`list_environments` names it.
            split: the task's split.
            index: the task's index in the split.
            task: the task itself, as :meth:`get_task` gives it or of your own.
            secrets: values by name, or pairs of a value and the domains it may be sent to, which the hosted platform
                needs for names that are not well known. They go to the server and nowhere else.
            toolset: the name of a set of tools that the server adds to the environment's.
        """
        check_type("env_name", env_name, str, none=False)
        check_type("split", split, str)
        check_number("index", index, whole=True)
        check_type("task", task, Mapping, what="a mapping")
        check_type("toolset", toolset, str)
        by_index = split is not None and index is not None
        if by_index == (task is not None) or (split is None) != (index is None):
            raise ValueError("a session needs either split and index, or a task")
        source: dict[str, Any] = {"task_spec": dict(task)} if task is not None else {"split": split, "index": index}
        if self.hosted:
            check_secrets(secrets)
            secrets = platform_secrets(secrets or {}, self.connection.headers.get("X-API-Key"), self.url)
        return Session(self.connection, env_name, Creation(source, secrets, toolset), self.get_task)

    async def delete_session(self, env_name: str, session_id: str) -> bool:
        """Delete a session whose owner is gone, such as a process that died. :meth:`Session.close` is the usual way.

        Returns:
            Whether the server had it. One whose creation is in progress may still appear.

        Raises:
            ORSError: the request failed.
        """
        route = await self.connection.route(env_name)
        headers = {**route.headers, "X-Session-ID": session_id}
        ping, *deletions = (
            Request("POST", route.session_base + path, headers, urgent=True)
            for path in ("/ping", "/delete", "/delete_session")
        )
        try:
            await self.connection.sender.fetch(ping)
        except StatusError as error:
            if error.status in (404, 410):
                await self._send_deletions(deletions)  # the server may have no /ping
                return False
            raise
        await self._send_deletions(deletions)
        return True

    async def _send_deletions(self, requests: Sequence[Request]) -> None:
        for request in requests:
            with suppress(NotFoundError):  # deleted meanwhile, or a server without this route
                await self.connection.sender.fetch(request, seconds=self.connection.sender.timeouts.close_seconds)


def _read_splits(wire: Any) -> tuple[Split, ...]:
    return tuple(Split.from_wire(split) for split in sequence(wire, "splits"))


def _read_version(wire: Any) -> str:
    return str(required(wire, "version", "the server's version"))


def _read_count(wire: Any) -> int:
    count = required(wire, "num_tasks", "task count")
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**63:
        raise ProtocolError(f"num_tasks must be an integer, 0 or more, got {shown(count)}")
    return count


def _read_task(wire: Any) -> Task:
    return _task(required(wire, "task", "task"))


def _read_tasks(wire: Any) -> tuple[Task, ...]:
    return tuple(map(_task, sequence(required(wire, "tasks", "task list"), "tasks")))


def _task(wire: Any) -> Task:
    if not isinstance(wire, Mapping):
        raise ProtocolError(f"a task must be a JSON object, got {shown(wire)}")
    return cast("Task", wire)
