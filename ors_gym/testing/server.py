"""The server under test, queried with plain requests: the client tolerates what some statements forbid."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote

from ors_gym.client.client import ORSClient
from ors_gym.client.session import Session
from ors_gym.http.transport import read_beginning
from ors_gym.json_text import read_json
from ors_gym.types import ToolList
from ors_gym.types.shapes import shown

__all__ = ["Answer", "DoesNotApplyError", "NotAsStatedError", "ServerUnderTest", "as_list", "as_object", "require"]


class NotAsStatedError(Exception):
    """The server does not behave as stated."""


class DoesNotApplyError(Exception):
    """The statement cannot be checked on this server."""


def require(condition: object, message: str) -> None:
    """Fail the check if ``condition`` is false."""
    if not condition:
        raise NotAsStatedError(message)


def as_list(value: Any, what: str) -> Sequence[Any]:
    """``value`` as a JSON array."""
    require(isinstance(value, list), f"{what} is not a JSON array but {type(value).__name__}")
    return cast("Sequence[Any]", value)


def as_object(value: Any, what: str) -> Mapping[str, Any]:
    """``value`` as a JSON object."""
    require(isinstance(value, dict), f"{what} is not a JSON object but {type(value).__name__}")
    return cast("Mapping[str, Any]", value)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, with a description of its request."""

    request: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def missing(self) -> bool:
        """Whether the server does not have the path."""
        return self.status in (404, 405, 501)

    def json(self) -> Any:
        """The JSON of a response with status 200."""
        require(self.status == 200, f"{self.request} answered {self.status}, not 200")
        try:
            return read_json(self.body)
        except ValueError as error:
            beginning = self.body[:80].decode(errors="replace")
            what = f"{self.request} answered with invalid JSON: {beginning!r} ({error})"
            raise NotAsStatedError(what) from None


@dataclass
class ServerUnderTest:
    """The server under test, and the results that later checks need."""

    client: ORSClient
    env_name: str = ""
    split: str = ""
    index: int = 0
    secrets: Mapping[str, str] = field(default_factory=dict[str, str])
    plays: bool = False
    """Whether checks may call tools."""
    tools: ToolList | None = None
    splits: tuple[str, ...] = ()
    num_tasks: dict[str, int] = field(default_factory=dict[str, int])
    session: Session | None = None
    session_headers: Mapping[str, str] = field(default_factory=dict[str, str])
    reached: bool = True

    async def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Send one request, once."""
        connection = self.client.connection
        data = None if body is None else json.dumps(body).encode()
        sent = {**connection.headers, **(headers or {})} | (
            {} if data is None else {"Content-Type": "application/json"}
        )
        url = connection.session_base + path
        async with connection.sender.transport.send(method, url, sent, data) as response:
            content = await (response.read() if response.status == 200 else read_beginning(response))
        return Answer(f"{method} {path}", response.status, response.headers, content)

    async def get(self, path: str) -> Any:
        """Get the JSON at a path."""
        return (await self.ask("GET", path)).json()

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Post a body and return the response's JSON."""
        return (await self.ask("POST", path, body)).json()

    @property
    def env_path(self) -> str:
        """The prefix of the environment's paths."""
        if not self.env_name:
            raise DoesNotApplyError("no environment was found")
        return "/" + quote(self.env_name, safe="")

    @property
    def open_session(self) -> Session:
        """The session shared by the checks."""
        if self.session is None:
            raise DoesNotApplyError("no session could be opened")
        return self.session

    def of_session(self, session_id: str | None = None) -> Mapping[str, str]:
        """The header that identifies a session."""
        return {"X-Session-ID": session_id or self.open_session.id}

    def need_tasks(self) -> None:
        """Skip the check if no task was found."""
        if self.num_tasks.get(self.split, 0) <= self.index:
            raise DoesNotApplyError("no task was found")

    def names(self, values: Sequence[Any], what: str) -> list[str]:
        """Non-empty, distinct names."""
        require(all(isinstance(name, str) and name for name in values), f"{what} must have non-empty strings as names")
        repeated = {name for name in values if values.count(name) > 1}
        require(not repeated, f"{what} with the same name: {shown(sorted(repeated))}")
        return list(values)
