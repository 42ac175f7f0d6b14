"""The client side of :mod:`ors_gym.spaces.native`: a session with an environment in its own spaces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast

from gymnasium import Space
from gymnasium.error import ClosedEnvironmentError, ResetNeeded

from ors_gym.client.client import ORSClient, Session
from ors_gym.client.session import SessionState
from ors_gym.envs.async_env import EnvOptions, only_environment
from ors_gym.errors import ORSError, ProtocolError, StatusError, ToolFailedError
from ors_gym.redaction import reveal
from ors_gym.spaces.native import RENDER, RESET, SPACES, STEP, NativeOptions
from ors_gym.spaces.native_spaces import read_space
from ors_gym.spaces.native_values import read_value, write_value

__all__ = ["NativeDescription", "NativeSession", "check_native_options"]

T = TypeVar("T")

MEANINGFUL = {"spaces", "split", "secrets", "api_key", "hosted", "timeouts", "client_options"}
"""The options that apply without a model."""


def check_native_options(options: EnvOptions) -> None:
    """Refuse options that only apply to text.

    Raises:
        ValueError: naming the options.
    """
    other = sorted(options.keys() - MEANINGFUL)
    if other:
        raise ValueError(f"{', '.join(other)} cannot be used with spaces='native': no text is read or written")


@dataclass(frozen=True, slots=True)
class NativeDescription:
    """The server's description of the environment."""

    observation_space: Space[Any]
    action_space: Space[Any]
    metadata: dict[str, Any]
    spec_id: str | None

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        """Read the metadata of ``gymnasium_spaces``."""
        observations, actions = (read_space(wire[name]) for name in ("observation_space", "action_space"))
        return cls(observations, actions, dict(read_value(wire["metadata"])), cast("str | None", wire["spec"]))


class NativeSession:
    """Opens a session on first use, and a new one after an infrastructure failure."""

    def __init__(self, client: ORSClient, env_name: str | None, native: NativeOptions, options: EnvOptions) -> None:
        self._client = client
        self._env_name = env_name
        self._native = native
        self._secrets = reveal(options.get("secrets"))
        self._session: Session | None = None
        self._begun = False
        self._closed = False
        self._closing: set[asyncio.Task[None]] = set()

    def __str__(self) -> str:
        return f"{self._env_name or 'the only environment'} at {self._client.url}, with its own spaces"

    @property
    def is_fresh(self) -> bool:
        """Whether the next reset is the first of its session."""
        return not self._begun

    async def describe(self) -> NativeDescription:
        """The spaces of the environment.

        Raises:
            ValueError: the environment has none, or the options do not fit it.
        """
        try:
            return await self._describe()
        except BaseException:
            await self.close()  # the environment is not constructed, so nothing else closes it
            raise

    async def _describe(self) -> NativeDescription:
        try:
            wire = await self._call(SPACES, {})
        except (StatusError, ToolFailedError) as error:
            if isinstance(error, StatusError) and error.status not in (400, 422, 500):
                raise
            raise ValueError(f"{self} cannot be opened: {error}") from error
        return _interpret(lambda: NativeDescription.from_wire(wire))

    async def reset(self, seed: int | list[int | None] | None, options: dict[str, Any] | None) -> tuple[Any, Any]:
        """Start an episode and return its first observation and info."""
        given = {"seed": _written("seed", seed), "options": _written("options", options)}
        if self._session is not None and self._session.state is SessionState.LOST:
            self._leave()
        wire = await self._call(RESET, given)
        self._begun = True
        return _interpret(lambda: (read_value(wire["observation"]), read_value(wire["info"])))

    async def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        """Take a step and return observation, reward, terminated, truncated and info."""
        if not self._begun:
            raise ResetNeeded("call reset before the first step")
        wire = await self._call(STEP, {"action": _written("action", action)})
        names = ("observation", "reward", "terminated", "truncated", "info")
        observation, reward, terminated, truncated, info = _interpret(
            lambda: [read_value(wire[name]) for name in names]
        )
        return observation, reward, terminated, truncated, info

    async def render(self) -> Any:
        """The environment's frame."""
        wire = await self._call(RENDER, {})
        return _interpret(lambda: read_value(wire["frame"]))

    async def close(self) -> None:
        """Close the session and wait until it is deleted. Idempotent."""
        self._closed = True
        self._leave()
        await asyncio.gather(*self._closing)

    async def _call(self, name: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._closed:
            raise ClosedEnvironmentError("the environment is closed")
        try:
            session = self._session or await self._open()
            output = await session.call_tool(name, given)
        except BaseException:
            if self._session is not None and self._session.state is not SessionState.OPEN:
                self._begun = False
            raise
        if output.ok:
            metadata = output.metadata
            if metadata is None:
                raise ProtocolError(f"{name} was answered without metadata")
            return metadata
        if output.reason == "not_found":
            raise ValueError(
                f"the environment {session.env_name!r} has no native spaces: they require an environment served from "
                "Gymnasium by ors_gym_server (as_ors_environment, or ors-gym serve gym:ID)"
            )
        raise ValueError(f"{name} was refused: {output.error}")

    async def _open(self) -> Session:
        name = self._env_name
        if name is None:
            name = self._env_name = await only_environment(self._client)
        session = self._client.session(name, task=self._native.task, secrets=self._secrets)
        self._session = session
        try:
            await session.open()
        except BaseException:
            self._session = None
            raise
        return session

    def _leave(self) -> None:
        """Close the session without waiting for the server to delete it."""
        session, self._session, self._begun = self._session, None, False
        if session is not None:
            closing = asyncio.get_running_loop().create_task(session.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


def _written(name: str, value: Any) -> Any:
    try:
        return write_value(value)
    except TypeError as error:
        reason = str(error)
    raise ValueError(f"the {name} cannot be sent: {reason}")


def _interpret(read: Callable[[], T]) -> T:
    try:
        return read()
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ORSError):
            raise
        reason = f"{type(error).__name__}: {error}"
    raise ProtocolError(f"invalid answer from the server: {reason}")
