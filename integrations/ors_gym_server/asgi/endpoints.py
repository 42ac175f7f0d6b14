"""The JSON endpoints: a table of functions.

Paths of the server have no prefix; those of an environment and of a session may begin with an environment's name. A
session belongs to the environment that it was created with, regardless of the path.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from ors_gym.http.answers import RefusedError
from ors_gym_server.asgi.requests import ClientRequest, CreateSession, OfSplit, TaskAt, TaskRange
from ors_gym_server.runtime.hosting import HostedEnvironment
from ors_gym_server.runtime.sessions import ServerSession, Sessions
from ors_gym_server.runtime.wire import encode

__all__ = ["Service", "answer", "methods_of"]


@dataclass(frozen=True, slots=True)
class Service:
    """The state of the endpoints: the environments, the default one first, and the sessions."""

    environments: Mapping[str, HostedEnvironment]
    sessions: Sessions

    def environment(self, name: str) -> HostedEnvironment:
        """The environment that a path or a body names, with or without an owner before the name.

        Raises:
            RefusedError: 404, there is none.
        """
        if not name:
            return next(iter(self.environments.values()))
        hosted = self.environments.get(name.lower()) or self.environments.get(name.lower().rpartition("/")[2])
        if hosted is None:
            raise RefusedError(404, f"unknown environment {name!r}; here are: {', '.join(self.environments)}")
        return hosted


async def answer(service: Service, method: str, prefix: str, endpoint: str, request: ClientRequest) -> bytes:
    """The JSON that answers a request to ``/{prefix}/{endpoint}``.

    Raises:
        RefusedError: the request is refused.
    """
    key = (method, endpoint)
    if not prefix and key in _OF_SERVER:
        return encode(await _OF_SERVER[key](service, request))
    if key in _OF_ENVIRONMENT:
        return encode(await _OF_ENVIRONMENT[key](service.environment(prefix), request))
    if key in _OF_SESSION:
        service.environment(prefix)
        return await _OF_SESSION[key](service, request)
    if allowed := methods_of(prefix, endpoint):
        raise RefusedError(405, "Method Not Allowed", allow=allowed)
    raise RefusedError(404, _nothing_at(f"/{prefix}/{endpoint}" if prefix else f"/{endpoint}", service))


def _nothing_at(path: str, service: Service) -> str:
    """The detail of a 404: the existing paths and likely causes."""
    of_server = ", ".join(f"/{endpoint}" for _, endpoint in _OF_SERVER)
    known = {endpoint for _, endpoint in (*_OF_SERVER, *_OF_ENVIRONMENT, *_OF_SESSION)} | {"create_session"}
    text = f"nothing is at {path[:200]}; there are {of_server}, /create_session, and the paths of the environments "
    text += ", ".join(f"/{name}/…" for name in service.environments)
    if path.rpartition("/")[2] in known:
        text += ". Is what stands before it the prefix of a proxy? Then serve with it as the root path (--root-path)"
    return text


def methods_of(prefix: str, endpoint: str) -> str:
    """The methods that an endpoint has, as the header ``Allow`` lists them; empty if there is no such endpoint."""
    tables = (_OF_ENVIRONMENT, _OF_SESSION) if prefix else (_OF_ENVIRONMENT, _OF_SESSION, _OF_SERVER)
    found = {method for table in tables for method, name in table if name == endpoint}
    if endpoint in _EVENTS_OF_SESSION or (endpoint == "create_session" and not prefix):
        found.add("POST")
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(sorted(found))


# -------------------------------------------------------------------- of the server


async def health(service: Service, request: ClientRequest) -> Any:
    """GET /health: whether the server answers. Needs no key."""
    return {"status": "ok"}


async def server_version(service: Service, request: ClientRequest) -> Any:
    """GET /version."""
    return {"version": version("ors-gym"), "server": "ors-gym"}


async def list_environments(service: Service, request: ClientRequest) -> Any:
    """GET /list_environments: the names, the default one first."""
    return list(service.environments)


async def create(service: Service, request: ClientRequest) -> Any:
    """POST /create: make a session's environment and start its setup."""
    sid = request.require_sid()
    asked = request.read(CreateSession)
    hosted = service.environment(asked.env_name or "")
    secrets = {**asked.secrets, **request.secrets}
    task = asked.task_spec
    if task is None:
        assert asked.split is not None
        assert asked.index is not None
        task = await hosted.get_task(asked.split, asked.index)
    await service.sessions.create(sid, hosted, task, secrets, asked.toolset_name)
    return {"sid": sid, "client_task_ids": True}


async def ping(service: Service, request: ClientRequest) -> Any:
    """POST /ping: keep the session alive."""
    service.sessions.find(request.require_sid())
    return {"status": "ok"}


async def delete(service: Service, request: ClientRequest) -> Any:
    """POST /delete: tear the session down."""
    sid = request.require_sid()
    await service.sessions.delete(sid)
    return {"sid": sid}


async def delete_session(service: Service, request: ClientRequest) -> Any:
    """POST /delete_session: release an id, with its session if it exists."""
    with contextlib.suppress(RefusedError):
        return await delete(service, request)
    return {"sid": request.require_sid()}


# -------------------------------------------------------------------- of an environment


async def tools(hosted: HostedEnvironment, request: ClientRequest) -> Any:
    """GET /{env}/tools."""
    return hosted.tools


async def splits(hosted: HostedEnvironment, request: ClientRequest) -> Any:
    """GET /{env}/splits."""
    return hosted.splits


async def tasks(hosted: HostedEnvironment, request: ClientRequest) -> Any:
    """POST /{env}/tasks."""
    return {"tasks": await hosted.list_tasks(request.read(OfSplit).split), "env_name": hosted.name}


async def num_tasks(hosted: HostedEnvironment, request: ClientRequest) -> Any:
    """POST /{env}/num_tasks."""
    return {"num_tasks": await hosted.num_tasks(request.read(OfSplit).split)}


async def task(hosted: HostedEnvironment, request: ClientRequest) -> Any:
    """POST /{env}/task."""
    asked = request.read(TaskAt)
    return {"task": await hosted.get_task(asked.split, asked.index), "env_name": hosted.name}


async def task_range(hosted: HostedEnvironment, request: ClientRequest) -> Any:
    """POST /{env}/task_range."""
    asked = request.read(TaskRange)
    return {"tasks": await hosted.get_task_range(asked.split, asked.start, asked.stop), "env_name": hosted.name}


# -------------------------------------------------------------------- of a session


async def prompt(service: Service, request: ClientRequest) -> bytes:
    """GET /{env}/prompt."""
    session = await service.sessions.ready(request.require_sid())
    return await _of_episode(session, "get_prompt", session.episode.prompt())


async def messages(service: Service, request: ClientRequest) -> bytes:
    """GET /{env}/messages."""
    session = await service.sessions.ready(request.require_sid())
    return await _of_episode(session, "get_messages", session.episode.messages())


async def task_tools(service: Service, request: ClientRequest) -> bytes:
    """GET /{env}/task_tools: available before the setup is done."""
    session = await service.sessions.constructed(request.require_sid())
    return await _of_episode(session, "list_task_tools", session.episode.tools())


async def _of_episode(session: ServerSession, what: str, work: Awaitable[bytes]) -> bytes:
    try:
        return await work
    except Exception as error:
        session.log(what, error)
        raise RefusedError(500, session.describe(error)) from None


_OF_SERVER: dict[tuple[str, str], Callable[[Service, ClientRequest], Awaitable[Any]]] = {
    ("GET", "health"): health,
    ("GET", "version"): server_version,
    ("GET", "list_environments"): list_environments,
    ("POST", "create"): create,
    ("POST", "ping"): ping,
    ("POST", "delete"): delete,
    ("POST", "delete_session"): delete_session,
}
_OF_ENVIRONMENT: dict[tuple[str, str], Callable[[HostedEnvironment, ClientRequest], Awaitable[Any]]] = {
    ("GET", "tools"): tools,
    ("GET", "splits"): splits,
    ("POST", "tasks"): tasks,
    ("POST", "num_tasks"): num_tasks,
    ("POST", "task"): task,
    ("POST", "task_range"): task_range,
}
_OF_SESSION: dict[tuple[str, str], Callable[[Service, ClientRequest], Awaitable[bytes]]] = {
    ("GET", "prompt"): prompt,
    ("GET", "messages"): messages,
    ("GET", "task_tools"): task_tools,
}
_EVENTS_OF_SESSION = ("call", "score_group")
"""Endpoints that answer with events; the application itself serves them."""
