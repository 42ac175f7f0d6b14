"""A Gymnasium environment behind an ORS server, with its own spaces."""

from __future__ import annotations

from typing import Any, SupportsFloat, Unpack

import gymnasium

from ors_gym.client.arguments import check_type, types_in_words
from ors_gym.envs.async_env import EnvOptions
from ors_gym.envs.copying import CopiedByArguments, without_secrets
from ors_gym.envs.env import client_of, release_when_collected
from ors_gym.envs.native_session import NativeSession, check_native_options
from ors_gym.redaction import Secret
from ors_gym.spaces.native import NativeOptions

__all__ = ["NativeEnv"]


class NativeEnv(CopiedByArguments, gymnasium.Env[Any, Any]):  # pyright: ignore[reportIncompatibleVariableOverride]  # spec
    """A Gymnasium environment on a server: its own spaces, observations, rewards, termination and infos.

    ::

        env = gym.make("ors_gym/ORS-v0", url="http://localhost:8080", env_name="cartpole", spaces="native")
        observation, info = env.reset(seed=0)          # float32 of shape (4,), as from CartPole itself

    The seed and the options of ``reset`` are the environment's own. With ``split``, each episode starts with a task of
    that split instead, drawn with the seed. An exception of the environment is raised as
    :class:`~ors_gym.errors.ToolFailedError`; after any other :class:`~ors_gym.errors.ORSError`, ``reset`` opens a new
    session. A value of ``info`` that cannot be sent is an :class:`~ors_gym.spaces.native_values.Unsent`.

    Args:
        url: The server's URL.
        env_name: The environment's name; optional if the server has only one.
        render_mode: One of the environment's own.
        options: ``split``, ``api_key``, ``hosted``, ``secrets``, ``timeouts`` and ``client_options`` of
            :class:`~ors_gym.envs.async_env.EnvOptions`.
    """

    @types_in_words
    def __init__(
        self,
        url: str | Secret,
        env_name: str | None = None,
        *,
        render_mode: str | None = None,
        **options: Unpack[EnvOptions],
    ) -> None:
        check_type("env_name", env_name, str)
        check_type("render_mode", render_mode, str)
        check_native_options(options)
        self._arguments = without_secrets({"url": url, "env_name": env_name, "render_mode": render_mode, **options})
        self._portal, client = client_of(url, options)
        native = NativeOptions(split=options.get("split"), render_mode=render_mode)
        self._remote = NativeSession(client, env_name, native, options)
        self._finalizer = release_when_collected(self, self._portal, self._remote)
        described = self._portal.run(self._remote.describe())
        self.observation_space, self.action_space = described.observation_space, described.action_space
        self.metadata, self.render_mode = described.metadata, render_mode
        self._has_begun = False

    @property
    def has_begun(self) -> bool:
        """Whether an episode has started."""
        return self._has_begun

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; without a seed, the environment's generator continues."""
        if seed is None and self._np_random is not None and self._remote.is_fresh:
            # A new session's generator does not continue from the earlier seed.
            seed = int(self.np_random.integers(2**31))
        super().reset(seed=seed)
        self._has_begun = True
        return self._portal.run(self._remote.reset(seed, options))

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take a step.

        Raises:
            ResetNeeded: there is no episode.
            ToolFailedError: the environment raised.
            ORSError: on infrastructure failure; the episode is lost.
        """
        return self._portal.run(self._remote.step(action))

    def render(self) -> Any:
        """The environment's frame in the render mode; None without one."""
        return None if self.render_mode is None else self._portal.run(self._remote.render())

    def close(self) -> None:
        """Close the session and wait until the server has deleted it. Idempotent."""
        if self._finalizer.detach() and self._portal.usable:
            self._portal.run(self._remote.close())

    def __str__(self) -> str:
        called = "" if self.spec is None else f"{self.spec.id}, "
        return f"<NativeEnv<{called}{self._remote}>>"

    __repr__ = __str__
