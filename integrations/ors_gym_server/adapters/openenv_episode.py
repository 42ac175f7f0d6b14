"""One episode of an OpenEnv environment: an instance in this process, or a session on an OpenEnv server.

Both return the payload of OpenEnv's server: ``observation``, ``reward`` and ``done``.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from openenv.core.env_server.interfaces import Environment as OpenEnvEnvironment
from openenv.core.env_server.mcp_types import CallToolAction
from openenv.core.env_server.serialization import deserialize_action
from openenv.core.env_server.types import Action
from openenv.core.generic_client import GenericEnvClient
from pydantic import ValidationError
from websockets.exceptions import ConnectionClosed

from ors_gym_server.adapters.observation_text import as_json
from ors_gym_server.threads import on_session_thread, run_user

__all__ = ["ActionRefused", "AnyOpenEnv", "LocalEpisode", "Payload", "RemoteEpisode", "RemoteServer", "ServerFull"]

AnyOpenEnv: TypeAlias = OpenEnvEnvironment[Any, Any, Any]
Payload: TypeAlias = Mapping[str, Any]


class ServerFull(Exception):  # noqa: N818
    """The OpenEnv server has reached its maximum of sessions."""


class ActionRefused(Exception):  # noqa: N818  (it is the agent's mistake, not an error of the program)
    """The environment did not take the action; nothing has happened."""


class LocalEpisode:
    """An environment in this process. Its synchronous methods run on the session's thread."""

    _env: AnyOpenEnv

    def __init__(self, make: Callable[[], AnyOpenEnv], action_class: type[Action]) -> None:
        self._make = make
        self._action_class = action_class

    async def connect(self) -> None:
        """Nothing: the environment is made when it is reset."""

    async def reset(self, arguments: Mapping[str, Any]) -> Payload:
        """Begin. As on OpenEnv's server, ``reset`` gets those of the arguments that it takes."""
        self._env = await on_session_thread(self._make)
        reset = self._method("reset")
        return await self._observed(reset, **_taken(reset, arguments))

    async def step(self, action: Mapping[str, Any]) -> Payload:
        """Take an action.

        Raises:
            ActionRefused: it is none.
        """
        try:
            typed = deserialize_action(dict(action), self._action_class)
        except ValidationError as error:
            raise ActionRefused(_plain_errors(error)) from None
        return await self._observed(self._method("step"), typed)

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Payload:
        """Call an MCP tool."""
        return await self._observed(self._method("step"), CallToolAction(tool_name=tool, arguments=dict(arguments)))

    async def state(self) -> Payload:
        """The environment's own state."""
        state: Payload = await on_session_thread(lambda: _dump(self._env.state))
        return state

    async def close(self) -> None:
        """Close the environment."""
        if hasattr(self, "_env"):
            await on_session_thread(self._env.close)

    def _method(self, name: str) -> Callable[..., Any]:
        """The asynchronous method if the environment overrides it, else the synchronous one."""
        later = f"{name}_async"
        own = getattr(type(self._env), later) is not getattr(OpenEnvEnvironment, later)
        method: Callable[..., Any] = getattr(self._env, later if own else name)
        return method

    async def _observed(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Payload:
        observation = await run_user(on_session_thread, partial(method, *args, **kwargs))
        return {"observation": _dump(observation), "reward": observation.reward, "done": observation.done}


def _plain_errors(error: ValidationError) -> str:
    told = (f"{'.'.join(map(str, each['loc'])) or 'the action'}: {each['msg']}" for each in error.errors())
    return f"Not an action: {'; '.join(told)}"


def _dump(model: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = model.model_dump(mode="json", fallback=as_json)
    return dumped


def _taken(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(arguments)
    return {name: value for name, value in arguments.items() if name in parameters}


@dataclass(frozen=True)
class RemoteServer:
    """The address of an OpenEnv server, and its connection settings."""

    url: str
    headers: Mapping[str, str] | None = None


class RemoteEpisode:
    """A session on an OpenEnv server, which is one connection."""

    def __init__(self, server: RemoteServer) -> None:
        headers = None if server.headers is None else dict(server.headers)
        self._client = _OneConnection(server.url, headers=headers)

    async def connect(self) -> None:
        """Reserve a session on the server.

        Raises:
            ServerFull: the server has reached its maximum.
        """
        await self._client.connect()
        with contextlib.suppress(ActionRefused, ServerError):  # some have no state before they are reset
            await self._client.ask("state", None)

    async def reset(self, arguments: Mapping[str, Any]) -> Payload:
        """Begin."""
        return await self._client.ask("reset", arguments)

    async def step(self, action: Mapping[str, Any]) -> Payload:
        """Take an action.

        Raises:
            ActionRefused: it is none.
            RuntimeError: the environment failed, or the connection and its session were lost.
        """
        return await self._client.ask("step", action)

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Payload:
        """Call an MCP tool."""
        return await self.step({"type": "call_tool", "tool_name": tool, "arguments": dict(arguments)})

    async def state(self) -> Payload:
        """The environment's own state."""
        return await self._client.ask("state", None)

    async def close(self) -> None:
        """End the session."""
        await self._client.close()


class ServerError(RuntimeError):
    """The OpenEnv server reports an error."""


LOST = "the connection to the OpenEnv server was lost, and the session with it"


class _OneConnection(GenericEnvClient):
    """OpenEnv's client, which never silently continues in a new session."""

    async def _ensure_connected(self) -> None:
        if self._ws is None:
            raise RuntimeError(LOST)

    async def ask(self, kind: str, data: Mapping[str, Any] | None) -> Payload:
        try:
            with contextlib.suppress(ConnectionClosed):  # a full server sends an error and closes immediately
                await self._send({"type": kind} | ({} if data is None else {"data": dict(data)}))
            answer = await self._receive()
        except ConnectionClosed:
            raise RuntimeError(LOST) from None
        payload: dict[str, Any] = answer.get("data") or {}
        if answer.get("type") != "error":
            return payload
        if payload.get("code") == "VALIDATION_ERROR":
            raise ActionRefused(str(payload.get("errors") or payload.get("message")))
        message = f"the OpenEnv server says {payload.get('code')}: {payload.get('message')}"
        raise ServerFull(message) if payload.get("code") == "CAPACITY_REACHED" else ServerError(message)
