"""Many Gymnasium environments on a server as one vector environment in their own spaces."""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# Spaces and their values have any type, which pyright reports as unknown after narrowing.

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, Unpack

import numpy as np
from gymnasium import Space
from gymnasium.error import ClosedEnvironmentError
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from ors_gym.client.arguments import check_number, check_type, types_in_words
from ors_gym.envs.async_env import EnvOptions
from ors_gym.envs.copying import CopiedByArguments, without_secrets
from ors_gym.envs.env import client_of, release_when_collected
from ors_gym.envs.native_session import NativeSession, check_native_options
from ors_gym.envs.sub_env_attributes import SubEnvAttributes
from ors_gym.redaction import Secret
from ors_gym.spaces.native import NativeOptions

__all__ = ["NativeVectorEnv"]

T = TypeVar("T")


class NativeVectorEnv(CopiedByArguments, SubEnvAttributes, VectorEnv[Any, Any, NDArray[Any]]):  # pyright: ignore[reportIncompatibleVariableOverride]
    """``num_envs`` environments of one kind in their own spaces, equivalent to ``SyncVectorEnv``.

    ::

        envs = gym.make_vec("ors_gym/ORS-v0", num_envs=64, url=…, env_name="cartpole", spaces="native")
        observations, infos = envs.reset(seed=0)       # float32 of shape (64, 4)

    By default one session holds all members and steps them in turn, with one request per step. With ``sessions=k`` they
    are distributed over k sessions that step concurrently, which pays off if a step takes longer than a request (and
    uses more processors on a server with worker processes). An infrastructure failure is raised; ``reset`` starts anew.

    Args:
        num_envs: Number of members.
        url: The server's URL.
        env_name: The environment's name; optional if the server has only one.
        sessions: Number of sessions that hold the members; divides ``num_envs``.
        autoreset_mode: Gymnasium's autoreset mode.
        render_mode: One of the environment's own.
        max_episode_steps: Number of steps until an episode is truncated, in addition to the environment's own limit.
        options: As for :class:`~ors_gym.envs.native_env.NativeEnv`.
    """

    @types_in_words
    def __init__(
        self,
        num_envs: int,
        url: str | Secret,
        env_name: str | None = None,
        *,
        sessions: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **options: Unpack[EnvOptions],
    ) -> None:
        for name, count in (("num_envs", num_envs), ("sessions", sessions)):
            check_number(name, count, none=False, whole=True)
        if num_envs < 1 or sessions < 1 or num_envs % sessions:
            raise ValueError(f"num_envs={num_envs} must be a multiple of sessions={sessions}, and both at least 1")
        check_number("max_episode_steps", max_episode_steps, whole=True)
        check_type("env_name", env_name, str)
        check_type("render_mode", render_mode, str)
        check_native_options(options)
        mode = AutoresetMode(autoreset_mode)
        self._arguments = without_secrets(
            {
                "num_envs": num_envs,
                "url": url,
                "env_name": env_name,
                "sessions": sessions,
                "autoreset_mode": mode,
                "render_mode": render_mode,
                "max_episode_steps": max_episode_steps,
                **options,
            }
        )
        self._portal, client = client_of(url, options)
        self.num_envs, self.render_mode = num_envs, render_mode
        self._size = num_envs // sessions
        native = NativeOptions(
            num_envs=self._size,
            autoreset_mode=mode.value,
            max_episode_steps=max_episode_steps,
            split=options.get("split"),
            render_mode=render_mode,
        )
        self._remotes = [NativeSession(client, env_name, native, options) for _ in range(sessions)]
        self._finalizer = release_when_collected(self, self._portal, *self._remotes)
        described = self._portal.run(self._remotes[0].describe())
        self.metadata = {**described.metadata, "autoreset_mode": mode}
        self.single_observation_space, self.single_action_space = described.observation_space, described.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._part_space = batch_space(self.single_observation_space, self._size)
        self._parts: list[Any] = [None] * sessions
        """The latest observation of each session."""
        self._has_begun = False

    @property
    def has_begun(self) -> bool:
        """Whether episodes have started."""
        return self._has_begun

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every member, or in those selected by ``options["reset_mask"]`` (bool array)."""
        self._check_open()
        if seed is None and self._np_random is not None and all(remote.is_fresh for remote in self._remotes):
            seed = int(self.np_random.integers(2**31))  # new sessions' generators do not continue from the earlier seed
        if isinstance(seed, int | np.integer):
            self._np_random, self._np_random_seed = seeding.np_random(int(seed))
            seed = [int(seed) + i for i in range(self.num_envs)]
        if seed is not None and len(seed) != self.num_envs:
            raise ValueError(f"{len(seed)} seeds for num_envs={self.num_envs} members")
        self._has_begun = True
        options = dict(options or {})
        mask = options.get("reset_mask")
        if mask is not None and (not isinstance(mask, np.ndarray) or mask.shape != (self.num_envs,) or not mask.any()):
            shape = f"({self.num_envs},)"
            raise ValueError(f"reset_mask must be a bool array of shape {shape} with at least one True, got {mask!r}")

        def begin(place: int, remote: NativeSession) -> Awaitable[tuple[Any, Any]] | None:
            own = slice(place * self._size, (place + 1) * self._size)
            given = dict(options)
            if mask is not None:
                if not mask[own].any():
                    return None
                given["reset_mask"] = mask[own]
            return remote.reset(None if seed is None else list(seed[own]), given or None)

        answers = self._all(begin)
        for place, answer in enumerate(answers):
            self._parts[place] = self._parts[place] if answer is None else answer[0]
        infos = [{} if answer is None else answer[1] for answer in answers]
        return self._joined(), self._joined_infos(infos)

    def step(self, actions: Any) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Take one action in every member."""
        self._check_open()
        if len(self._remotes) == 1:
            parts = [actions]
        else:
            items = list(iterate(self.action_space, actions))
            parts = [
                _batch(self.single_action_space, items[i : i + self._size]) for i in range(0, self.num_envs, self._size)
            ]
        answers = self._all(lambda place, remote: remote.step(parts[place]))
        for place, answer in enumerate(answers):
            self._parts[place] = answer[0]
        rewards, terminations, truncations = (np.concatenate([each[i] for each in answers]) for i in (1, 2, 3))
        return self._joined(), rewards, terminations, truncations, self._joined_infos([each[4] for each in answers])

    def render(self) -> tuple[Any, ...] | None:
        """The frame of each member in the render mode; None without one."""
        if self.render_mode is None:
            return None
        return tuple(frame for frames in self._all(lambda place, remote: remote.render()) for frame in frames)

    def close_extras(self, **kwargs: Any) -> None:
        """Close every session and wait until the server has deleted them."""
        if self._finalizer.detach() and self._portal.usable:
            self._portal.run(_gather([remote.close() for remote in self._remotes]))

    def __del__(self) -> None:
        """Do nothing: the finalizer closes sessions without waiting, unlike older Gymnasium versions."""

    def __repr__(self) -> str:
        called = "" if self.spec is None else f"{self.spec.id}, "
        return f"NativeVectorEnv({called}{self._remotes[0]}, num_envs={self.num_envs})"

    # ---------------------------------------------------------------- inside

    def _attributes_of(self, member: int) -> Mapping[str, Any]:
        return {
            "action_space": self.single_action_space,
            "metadata": {name: value for name, value in self.metadata.items() if name != "autoreset_mode"},
            "observation_space": self.single_observation_space,
            "render": lambda: None if self.render_mode is None else (self.render() or ())[member],
            "render_mode": self.render_mode,
            "spec": self.spec,
        }

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("the vector environment is closed")

    def _all(self, begin: Callable[[int, NativeSession], Awaitable[T] | None]) -> list[Any]:
        """Do the same in every session concurrently; the first error is raised after all have finished."""
        work = [begin(place, remote) for place, remote in enumerate(self._remotes)]
        return self._portal.run(_gather(work))

    def _joined(self) -> Any:
        """The observations of all members."""
        if len(self._parts) == 1:
            return self._parts[0]
        items = [item for part in self._parts for item in iterate(self._part_space, part)]
        return _batch(self.single_observation_space, items)

    def _joined_infos(self, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Gymnasium's batched infos (arrays with masks) of all members."""
        if len(parts) == 1:
            return parts[0]
        joined: dict[str, Any] = {}
        for name in dict.fromkeys(name for part in parts for name in part):
            given = {place: part[name] for place, part in enumerate(parts) if name in part}
            first = next(iter(given.values()))
            if isinstance(first, dict):
                joined[name] = self._joined_infos([given.get(place, {}) for place in range(len(parts))])
                continue
            whole = np.zeros((self.num_envs, *first.shape[1:]), dtype=first.dtype)
            if whole.dtype == object:
                whole[:] = None
            for place, array in given.items():
                whole[place * self._size : (place + 1) * self._size] = array
            joined[name] = whole
        return joined


def _batch(space: Space[Any], items: Sequence[Any]) -> Any:
    empty: Any = create_empty_array(space, len(items))
    return concatenate(space, items, empty)


async def _gather(work: Sequence[Awaitable[Any] | None]) -> list[Any]:
    results = await asyncio.gather(*(each for each in work if each is not None), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    done = iter(results)
    return [None if each is None else next(done) for each in work]
