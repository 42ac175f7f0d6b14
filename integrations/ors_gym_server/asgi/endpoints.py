"""The endpoints that answer JSON: a table of functions.

Those of the server stand at the root of its paths; those of an environment and of a session may follow an
environment's name. A session is of the environment that it was created with, whatever the path says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from ors_gym_server.asgi.requests import ClientRequest, CreateSession, OfSplit, TaskAt, TaskRange
from ors_gym_server.runtime.hosting import HostedEnvironment
from ors_gym_server.runtime.sessions import ServerSession
from ors_gym_server.runtime.wire import encode

if TYPE_CHECKING:
    from ors_gym_server.asgi.app import ORSApp

__all__ = ["answer"]


async def answer(app: ORSApp, method: str, prefix: str, endpoint: str, request: ClientRequest) -> bytes:
    """The JSON that answers a request to ``/{prefix}/{endpoint}``.

    Raises:
        HTTPException: the request is refused.
    """
    key = (method, endpoint)
    if not prefix and key in _OF_SERVER:
        return encode(await _OF_SERVER[key](app, request))
    if key in _OF_ENVIRONMENT:
        return encode(await _OF_ENVIRONMENT[key](app.environment(prefix), request))
    if key in _OF_SESSION:
        app.environment(prefix)
        return await _OF_SESSION[key](app, request)
    if endpoint in _NAMES:
        raise HTTPException(405, "Method Not Allowed")
    raise HTTPException(404, "Not Found")


# -------------------------------------------------------------------- of the server


async def health(app: ORSApp, request: ClientRequest) -> Any:
    """GET /health: whether the server answers. Needs no key."""
    return {"status": "ok"}


async def server_version(app: ORSApp, request: ClientRequest) -> Any:
    """GET /version."""
    return {"version": version("ors-gym"), "server": "ors-gym"}


async def list_environments(app: ORSApp, request: ClientRequest) -> Any:
    """GET /list_environments: the names, the default one first."""
    return list(app.environments)


async def create(app: ORSApp, request: ClientRequest) -> Any:
    """POST /create: make a session's environment and start its setup."""
    sid = request.require_sid()
    asked = request.read(CreateSession)
    hosted = app.environment(asked.env_name or "")
    secrets = request.secrets
    task = asked.task_spec
    if task is None:
        assert asked.split is not None
        assert asked.index is not None
        task = await hosted.get_task(asked.split, asked.index)
    await app.sessions.create(sid, hosted, task, secrets, asked.toolset_name)
    return {"sid": sid, "client_task_ids": True}


async def ping(app: ORSApp, request: ClientRequest) -> Any:
    """POST /ping: the session is still wanted."""
    app.sessions.find(request.require_sid())
    return {"status": "ok"}


async def delete(app: ORSApp, request: ClientRequest) -> Any:
    """POST /delete and /delete_session: tear the session down, if there is one."""
    sid = request.require_sid()
    await app.sessions.delete(sid)
    return {"sid": sid}


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


async def prompt(app: ORSApp, request: ClientRequest) -> bytes:
    """GET /{env}/prompt."""
    session = await app.sessions.ready(request.require_sid())
    return await _of_episode(session, "get_prompt", session.episode.prompt())


async def messages(app: ORSApp, request: ClientRequest) -> bytes:
    """GET /{env}/messages."""
    session = await app.sessions.ready(request.require_sid())
    return await _of_episode(session, "get_messages", session.episode.messages())


async def task_tools(app: ORSApp, request: ClientRequest) -> bytes:
    """GET /{env}/task_tools: there before the setup is done."""
    session = await app.sessions.constructed(request.require_sid())
    return await _of_episode(session, "list_task_tools", session.episode.tools())


async def _of_episode(session: ServerSession, what: str, work: Awaitable[bytes]) -> bytes:
    try:
        return await work
    except Exception as error:
        session.log(what, error)
        raise HTTPException(500, session.describe(error)) from None


_OF_SERVER: dict[tuple[str, str], Callable[[ORSApp, ClientRequest], Awaitable[Any]]] = {
    ("GET", "health"): health,
    ("GET", "version"): server_version,
    ("GET", "list_environments"): list_environments,
    ("POST", "create"): create,
    ("POST", "ping"): ping,
    ("POST", "delete"): delete,
    ("POST", "delete_session"): delete,
}
_OF_ENVIRONMENT: dict[tuple[str, str], Callable[[HostedEnvironment, ClientRequest], Awaitable[Any]]] = {
    ("GET", "tools"): tools,
    ("GET", "splits"): splits,
    ("POST", "tasks"): tasks,
    ("POST", "num_tasks"): num_tasks,
    ("POST", "task"): task,
    ("POST", "task_range"): task_range,
}
_OF_SESSION: dict[tuple[str, str], Callable[[ORSApp, ClientRequest], Awaitable[bytes]]] = {
    ("GET", "prompt"): prompt,
    ("GET", "messages"): messages,
    ("GET", "task_tools"): task_tools,
}
_NAMES = {name for _, name in (*_OF_SERVER, *_OF_ENVIRONMENT, *_OF_SESSION)} | {"call", "create_session", "score_group"}
