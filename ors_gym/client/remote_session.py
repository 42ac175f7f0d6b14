"""The server's side of a session: its creation under an id, its requests, and its deletion."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

from ors_gym.client.connection import Connection, Route, new_session_id
from ors_gym.client.cookies import SessionCookies
from ors_gym.client.creation import Creation
from ors_gym.client.requests import Request
from ors_gym.errors import NotFoundError, StatusError, TransportError
from ors_gym.json_text import encode_json
from ors_gym.types import Task

__all__ = ["RemoteSession"]

T = TypeVar("T")

MAX_CREATIONS = 3
"""Maximum session ids tried when the answer to ``/create`` is lost and the session does not exist."""


class RemoteSession:
    """The server's side of a :class:`~ors_gym.client.session.Session`.

    Args:
        connection: the server.
        creation: the content of ``/create``.
        find_task: finds a task by environment, split and index, for servers that know no indices.
    """

    def __init__(
        self, connection: Connection, creation: Creation, find_task: Callable[[str, str, int], Awaitable[Task]]
    ) -> None:
        self.id = ""
        self._connection = connection
        self._creation = creation
        self._find_task = find_task
        self._cookies = SessionCookies()
        self._query = ""
        self._route: Route | None = None
        self._headers: dict[str, str] = {}

    # ---------------------------------------------------------------- creation

    async def create(self, env_name: str) -> None:
        """Create it: two requests.

        Raises:
            TransportError, StatusError, ProtocolError: it could not be created; nothing is left on the server.
        """
        self._route = await self._connection.route(env_name)
        await self._connection.warn_of_missing_secrets(env_name, self._creation.secret_names)
        creations = 0
        while not await self._create(env_name, last=creations == MAX_CREATIONS - 1):
            creations += 1

    async def _create(self, env_name: str, *, last: bool) -> bool:
        """Ask for an id and create the environment under it; False if the session was lost."""
        assert self._route is not None
        connection = self._connection
        self._cookies = SessionCookies()
        headers = {**self._route.headers, **(self._creation.headers if connection.hosted else {})}
        ask = Request("POST", f"{self._route.session_base}/create_session", headers, b"", redact=self._creation.redact)
        self.id = await new_session_id(connection.sender, ask, self._cookies.take)
        self._headers = self._cookies.put({**self._route.headers, "X-Session-ID": self.id})
        noted = self._own_headers
        if connection.journal is not None:
            await connection.journal.opening(self.id, noted)

        async def task_of(split: str, index: int) -> Task:
            return await self._find_task(env_name, split, index)

        try:
            connection.creation_form = await self._creation.send(self._post, connection.creation_form, task_of)
            if connection.journal is not None and self._own_headers != noted:
                await connection.journal.opening(self.id, self._own_headers)
            return True
        except (TransportError, StatusError) as error:
            if isinstance(error, StatusError):
                if error.status == 400 and "already exists" in error.detail.lower():
                    return True  # only we know the id: an earlier attempt, by us or a proxy, did create it
                if error.status not in (502, 503, 504):
                    self.start_deletion()
                    raise
            if await self._exists():
                return True
            self.start_deletion(may_appear=True)
            if last:
                raise
            return False
        except BaseException:
            self.start_deletion(may_appear=True)
            raise

    @property
    def _own_headers(self) -> Mapping[str, str]:
        """The headers of this session's requests in addition to the client's."""
        common = self._connection.headers
        return {name: value for name, value in self._headers.items() if common.get(name) != value}

    async def _post(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        assert self._route is not None
        create = Request(
            "POST",
            f"{self._route.session_base}/create",
            {**self._headers, **headers, "Content-Type": "application/json"},
            encode_json({**body, "env_name": self._route.name}),
            repeatable=False,
            redact=self._creation.redact,
        )
        connection = self._connection
        connection.names_tasks = await connection.sender.fetch_json(create, _names_tasks, self._take_headers)

    def _take_headers(self, headers: Mapping[str, str]) -> None:
        """Read the headers of the answer to ``/create``."""
        assert self._route is not None
        self._cookies.take(headers)
        self._headers = self._cookies.put({**self._route.headers, "X-Session-ID": self.id})
        if "no-store" not in headers.get("cache-control", "") and self._connection.reads_queries is not False:
            self._query = f"?session={uuid.uuid4().hex[:16]}"  # no cache has this URL

    async def _exists(self) -> bool:
        """Whether the session exists after the answer to ``/create`` was lost."""
        for delay in (0.0, 0.5, 1.0):
            await asyncio.sleep(delay)
            try:
                await self.ping()
            except (TransportError, StatusError):
                continue
            return True
        return False

    # ---------------------------------------------------------------- requests

    async def ping(self) -> None:
        """Keep the session alive."""
        await self._connection.sender.fetch(self._of_server("/ping"))

    async def get(self, path: str, read: Callable[[Any], T]) -> T:
        """Read something of this session, under a URL that no cache holds for another session."""
        sender, request = self._connection.sender, self._of_environment("GET", path)
        if not self._query:
            return await sender.fetch_json(request, read)
        try:
            return await sender.fetch_json(replace(request, url=request.url + self._query), read)
        except NotFoundError:
            if await self._connection.does_read_queries(self._query):
                raise
        self._query = ""
        return await sender.fetch_json(request, read)

    def call_request(self, path: str) -> Request:
        """A request for an event stream; the body is added later."""
        request = self._of_environment("POST", path)
        headers = {**self._headers, "Content-Type": "application/json", "Accept": "text/event-stream"}
        return replace(request, headers=headers)

    def _of_environment(self, method: str, path: str) -> Request:
        assert self._route is not None
        return Request(method, self._route.session_url + path, self._headers, redact=self._creation.redact)

    def _of_server(self, path: str) -> Request:
        assert self._route is not None
        url = self._route.session_base + path
        return Request("POST", url, self._headers, urgent=True, redact=self._creation.redact)

    # ---------------------------------------------------------------- deletion

    def start_deletion(self, *, gone: bool = False, may_appear: bool = False) -> asyncio.Task[None]:
        """Delete the session in the background.

        Args:
            gone: the server no longer has the environment; only the id is deleted.
            may_appear: the creation was given up and may yet succeed.
        """
        paths = ("/delete_session",) if gone else ("/delete", "/delete_session")
        ping = self._of_server("/ping") if may_appear else None
        deletions = [self._of_server(path) for path in paths]
        return self._connection.in_background(self._connection.delete(self.id, deletions, may_appear=ping))


def _names_tasks(wire: Any) -> bool:
    """Whether the answer to ``/create`` lets clients choose the ``task_id`` of a call."""
    return isinstance(wire, dict) and cast("dict[str, Any]", wire).get("client_task_ids") is True
