"""One episode of an OpenEnv environment: an instance in this process, or a session on an OpenEnv server.

Both answer with the payload that OpenEnv's server sends: ``observation``, ``reward`` and ``done``.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from openenv.core.env_server.interfaces import Environment as OpenEnvEnvironment
from openenv.core.env_server.mcp_types import CallToolAction
from openenv.core.env_server.serialization import deserialize_action
from openenv.core.env_server.types import Action, Observation
from openenv.core.generic_client import GenericEnvClient
from websockets.exceptions import ConnectionClosed

from ors_gym_server.adapters.observation_text import as_json

__all__ = ["AnyOpenEnv", "LocalEpisode", "Payload", "RemoteEpisode", "RemoteServer", "ServerFull", "ServerRefusal"]

AnyOpenEnv: TypeAlias = OpenEnvEnvironment[Any, Any, Any]
Payload: TypeAlias = Mapping[str, Any]


class ServerFull(Exception):  # noqa: N818
    """The OpenEnv server holds as many sessions as it takes."""


class ServerRefusal(Exception):  # noqa: N818  (it is the agent's mistake, not an error of the program)
    """The OpenEnv server did not take the action; nothing has happened."""


class LocalEpisode:
    """An environment in this process. Synchronous methods run here, asynchronous ones where they are awaited."""

    def __init__(self, make: Callable[[], AnyOpenEnv], action_class: type[Action]) -> None:
        self._env = make()
        self._action_class = action_class

    def reset(self, arguments: Mapping[str, Any]) -> Payload | Awaitable[Payload]:
        """Begin. As on OpenEnv's server, ``reset`` gets those of the arguments that it takes."""
        reset = self._env.reset_async if self._overrides("reset_async") else self._env.reset
        return _payload(reset(**_taken(reset, arguments)))

    def step(self, action: Mapping[str, Any]) -> Payload | Awaitable[Payload]:
        """Take an action.

        Raises:
            pydantic.ValidationError: it is none.
        """
        return self._act(deserialize_action(dict(action), self._action_class))

    def call(self, tool: str, arguments: Mapping[str, Any]) -> Payload | Awaitable[Payload]:
        """Call an MCP tool."""
        return self._act(CallToolAction(tool_name=tool, arguments=dict(arguments)))

    def _act(self, action: Action) -> Payload | Awaitable[Payload]:
        return _payload(self._env.step_async(action) if self._overrides("step_async") else self._env.step(action))

    def state(self) -> Payload:
        """What the environment says of its own state."""
        return _dump(self._env.state)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _overrides(self, method: str) -> bool:
        return getattr(type(self._env), method) is not getattr(OpenEnvEnvironment, method)


def _payload(observation: Observation | Awaitable[Observation]) -> Payload | Awaitable[Payload]:
    if isinstance(observation, Awaitable):
        return _awaited_payload(observation)
    return {"observation": _dump(observation), "reward": observation.reward, "done": observation.done}


async def _awaited_payload(observation: Awaitable[Observation]) -> Payload:
    payload = _payload(await observation)
    assert isinstance(payload, Mapping)
    return payload


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
    """Where an OpenEnv server is, and how it is spoken to."""

    url: str
    headers: Mapping[str, str] | None = None
    message_timeout_seconds: float = 60.0


class RemoteEpisode:
    """A session on an OpenEnv server: one connection, which is the session."""

    def __init__(self, server: RemoteServer) -> None:
        headers = None if server.headers is None else dict(server.headers)
        self._client = _OneConnection(server.url, message_timeout_s=server.message_timeout_seconds, headers=headers)
        self._connected = False

    async def connect(self) -> None:
        """Take a place on the server.

        Raises:
            ServerFull: it has none left.
        """
        await self._client.connect()
        self._connected = True
        with contextlib.suppress(ServerRefusal, ServerError):  # some have no state before they are reset
            await self._client.ask("state", None)

    async def reset(self, arguments: Mapping[str, Any]) -> Payload:
        """Begin."""
        if not self._connected:
            await self.connect()
        return await self._client.ask("reset", arguments)

    async def step(self, action: Mapping[str, Any]) -> Payload:
        """Take an action.

        Raises:
            ServerRefusal: it is none.
            RuntimeError: the environment failed, or the connection was lost and the session with it.
        """
        return await self._client.ask("step", action)

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Payload:
        """Call an MCP tool."""
        return await self.step({"type": "call_tool", "tool_name": tool, "arguments": dict(arguments)})

    async def state(self) -> Payload:
        """What the environment says of its own state."""
        return await self._client.ask("state", None)

    async def close(self) -> None:
        """End the session."""
        await self._client.close()


class ServerError(RuntimeError):
    """The OpenEnv server reports an error."""


LOST = "the connection to the OpenEnv server was lost, and the session with it"


class _OneConnection(GenericEnvClient):
    """OpenEnv's client, except that it never goes on in a new session as if that were the old one."""

    async def _ensure_connected(self) -> None:
        if self._ws is None:
            raise RuntimeError(LOST)

    async def ask(self, kind: str, data: Mapping[str, Any] | None) -> Payload:
        try:
            with contextlib.suppress(ConnectionClosed):  # a server that is full says so, and closes at once
                await self._send({"type": kind} | ({} if data is None else {"data": dict(data)}))
            answer = await self._receive()
        except ConnectionClosed:
            raise RuntimeError(LOST) from None
        payload: dict[str, Any] = answer.get("data") or {}
        if answer.get("type") != "error":
            return payload
        if payload.get("code") == "VALIDATION_ERROR":
            raise ServerRefusal(str(payload.get("errors") or payload.get("message")))
        said = f"the OpenEnv server says {payload.get('code')}: {payload.get('message')}"
        raise ServerFull(said) if payload.get("code") == "CAPACITY_REACHED" else ServerError(said)
