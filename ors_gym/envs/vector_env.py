"""Many ORS episodes at once as a Gymnasium vector environment, on one event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, Unpack

import numpy as np
from gymnasium import Space
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from ors_gym.client.arguments import check_number, check_type, types_in_words
from ors_gym.client.portal import WAIT_SECONDS
from ors_gym.dialects import Action
from ors_gym.envs.async_env import EnvOptions
from ors_gym.envs.copying import CopiedByArguments, without_secrets
from ors_gym.envs.env import checked_render_mode, look_up, release_when_collected
from ors_gym.envs.rendering import RENDER_MODES, render
from ors_gym.envs.sub_env import SubEnv, SubEnvResult
from ors_gym.envs.sub_env_attributes import SubEnvAttributes
from ors_gym.redaction import Secret
from ors_gym.trajectory import TaskRef

__all__ = ["ORSVectorEnv"]

Batch: TypeAlias = tuple[tuple[Any, ...], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]
"""Observations, rewards, terminations, truncations, infos."""


class ORSVectorEnv(CopiedByArguments, SubEnvAttributes, VectorEnv[tuple[Any, ...], Sequence[Action], NDArray[Any]]):  # pyright: ignore[reportIncompatibleVariableOverride]
    """``num_envs`` episodes of one ORS environment, each in its own session.

    ::

        envs = gym.make_vec("ors_gym/ORS-v0", num_envs=64, url="http://localhost:8080", env_name="wordle")
        observations, infos = envs.reset(seed=0)
        observations, rewards, terminations, truncations, infos = envs.step(actions)

    Member i behaves like an :class:`~ors_gym.ORSEnv` under `gymnasium.vector.SyncVectorEnv`, but members run
    concurrently. Observations are a tuple of the members' observations.

    **Groups.** With ``group_size=G`` members ``0…G-1``, ``G…2G-1``, … are groups: the k-th episode since the last seed
    plays the same task in all members of a group, whenever each of them reaches it. The seed of a group's first member
    applies.

    **Failures.** An infrastructure failure affects only one member. Gymnasium has no third flag besides `terminations`
    and `truncations`, so a failed episode ends as follows: ``infos["failure"][i]`` describes the failure
    (:class:`~ors_gym.trajectory.Failure`), ``truncations[i]`` is True, ``rewards[i]`` is NaN, and the observation
    repeats the last one. It must not be scored. The member then retries the task in a new session, up to ``restarts``
    times, and continues with its next task. A member that cannot start a task ``1 + restarts`` times in a row has no
    episode: ``infos["failure"]`` reports it, and its next step starts the next task. The error is raised if no member
    can start in a full `reset`, or if none could start any of its last ``1 + restarts`` tasks.

    **Without a barrier.** ``send(actions, env_ids)`` and ``recv(min_envs)`` replace ``step``: a slow member delays only
    itself.

    Args:
        num_envs: Number of members.
        url: The server's URL.
        env_name: The environment's name; optional if the server has only one.
        group_size: Number of adjacent members that play the same tasks; divides ``num_envs``.
        autoreset_mode: Gymnasium's; by default the step after an episode's end starts the next one.
        restarts: Maximum retries of a task whose episode failed.
        render_mode: As in ORSEnv.
        max_episode_steps: As for ``gym.make``; Gymnasium's name for ``max_turns``.
        options: See :class:`~ors_gym.envs.async_env.EnvOptions`.
    """

    @types_in_words
    def __init__(
        self,
        num_envs: int,
        url: str | Secret,
        env_name: str | None = None,
        *,
        group_size: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        restarts: int = 2,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **options: Unpack[EnvOptions],
    ) -> None:
        for name, count in (("num_envs", num_envs), ("group_size", group_size), ("restarts", restarts)):
            check_number(name, count, none=False, whole=True)
        check_number("max_episode_steps", max_episode_steps, whole=True)
        if num_envs < 1 or group_size < 1 or num_envs % group_size:
            raise ValueError(f"num_envs={num_envs} must be a multiple of group_size={group_size}, and both at least 1")
        if restarts < 0:
            raise ValueError("restarts must be at least 0")
        if max_episode_steps is not None:
            options["max_turns"] = min(max_episode_steps, options.get("max_turns") or max_episode_steps)
        self.num_envs = num_envs
        self.group_size = group_size
        self._restarts = restarts
        self.render_mode = checked_render_mode(render_mode)
        mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": RENDER_MODES, "render_fps": 1, "autoreset_mode": mode}
        self._arguments = without_secrets(
            {
                "num_envs": num_envs,
                "url": url,
                "env_name": env_name,
                "group_size": group_size,
                "autoreset_mode": mode,
                "restarts": restarts,
                "render_mode": render_mode,
                **options,
            }
        )
        self._portal, self.recipe = look_up(url, env_name, options)
        self.single_action_space = self.recipe.action_space
        single_observation_space: Space[Any] = self.recipe.observation_space
        self.single_observation_space = single_observation_space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(single_observation_space, num_envs)
        self._members = [SubEnv(self.recipe, mode, restarts) for _ in range(num_envs)]
        self._tasks: set[asyncio.Task[SubEnvResult]] = set()
        self._pending: set[int] = set()
        self._landed: dict[int, asyncio.Task[SubEnvResult]] = {}
        self._landing = threading.Event()
        self._seed([None] * num_envs, range(num_envs))
        self._finalizer = release_when_collected(self, self._portal, *(member.episode for member in self._members))

    # ---------------------------------------------------------------- Gymnasium's interface

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Start an episode in every member, or in those selected by ``options["reset_mask"]`` (bool array).

        Args:
            seed: An int seeds member i with ``seed + i``; a sequence has one seed per member.
            options: Besides ``reset_mask``, ``task`` and ``task_index`` as in ORSEnv for all members, or ``task_index``
                as a sequence with one per member.
        """
        self._check_open()
        check_type("options", options, Mapping, what="a mapping")
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        members = range(self.num_envs) if mask is None else self._marked(mask)
        tasks = self._named_tasks(options)
        if mask is None:
            self._abandon()
        else:
            self._check_idle(members)
        if seed is not None:
            self._seed(self._seeds(seed), members)
        again = mask is not None and seed is None
        self._launch({i: partial(self._members[i].begin, tasks[i], again=again) for i in members})
        outcomes = self._land(len(members))
        infos: dict[str, Any] = {}
        for i in members:
            infos = self._add_info(infos, outcomes[i].info, i)
        if mask is None:
            self._check_alive(tasks=1)
        return tuple(member.observation for member in self._members), infos

    def step(self, actions: Sequence[Action]) -> Batch:
        """Take one action in every member concurrently, and wait for the slowest."""
        self.send(actions)
        outcomes = self._land(self.num_envs)
        return self._batch([outcomes[i] for i in range(self.num_envs)])

    def render(self) -> tuple[Any, ...]:
        """Each member's episode in the render mode."""
        return self.call("render")

    def close_extras(self, **kwargs: Any) -> None:
        """Cancel running steps, close every session and wait until the server has deleted them."""
        if self._finalizer.detach() and self._portal.usable:
            self._portal.run(self._close())

    def __del__(self) -> None:
        """Do nothing: the finalizer closes sessions without waiting, unlike older Gymnasium versions."""

    async def _close(self) -> None:
        await self._cancel()
        await asyncio.gather(*(member.episode.close() for member in self._members))

    # ---------------------------------------------------------------- without a barrier

    def send(self, actions: Sequence[Action], env_ids: ArrayLike | None = None) -> None:
        """Start one step in the members ``env_ids`` (default: all), with one action each, without waiting.

        Raises:
            AlreadyPendingCallError: a member's previous step has not been received.
        """
        self._check_open()
        members = list(range(self.num_envs)) if env_ids is None else [int(i) for i in np.asarray(env_ids).reshape(-1)]
        if isinstance(actions, str | Mapping) or not hasattr(actions, "__len__"):
            raise TypeError(f"expected a sequence with one action per member, got {type(actions).__name__}")
        if len(actions) != len(members):
            raise ValueError(f"{len(actions)} actions for {len(members)} members")
        if len(set(members)) != len(members) or not all(0 <= i < self.num_envs for i in members):
            raise ValueError(f"env_ids must be different members of 0 to {self.num_envs - 1}, got {members}")
        self._check_idle(members)
        for i, action in zip(members, actions, strict=True):
            self._members[i].check_ready(action)
        steps = zip(members, actions, strict=True)
        self._launch({i: partial(self._members[i].advance, action) for i, action in steps})

    def recv(self, min_envs: int = 1) -> Batch:
        """Wait until at least ``min_envs`` steps are complete, and return all completed ones.

        All results have one entry per received member, in order of completion; ``infos["env_id"]`` (int array)
        identifies the members.

        Raises:
            NoAsyncCallError: fewer steps are pending.
        """
        if not 1 <= min_envs <= len(self._pending):
            raise NoAsyncCallError(f"recv({min_envs}) with {len(self._pending)} pending steps", "recv")
        outcomes = self._land(min_envs)
        batch = self._batch(list(outcomes.values()))
        batch[-1]["env_id"] = np.array(list(outcomes))
        return batch

    @property
    def pending(self) -> tuple[int, ...]:
        """The members whose steps have been sent but not received."""
        return tuple(sorted(self._pending))

    # ---------------------------------------------------------------- members

    @property
    def has_begun(self) -> bool:
        """Whether episodes have started."""
        return any(task is not None for task in self.tasks)

    @property
    def tasks(self) -> tuple[TaskRef | None, ...]:
        """The members' tasks."""
        return self.get_attr("task")

    @property  # type: ignore[misc]  # as in SyncVectorEnv
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The members' random generators, which draw their tasks."""
        return tuple(member.rng for member in self._members)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seeds of the members' random generators."""
        return tuple(member.seed for member in self._members)

    def __repr__(self) -> str:
        called = "" if self.spec is None else f"{self.spec.id}, "
        return f"ORSVectorEnv({called}{self.recipe}, num_envs={self.num_envs})"

    # ---------------------------------------------------------------- inside

    def _attributes_of(self, member: int) -> Mapping[str, Any]:
        sub_env = self._members[member]
        return {
            "action_space": self.recipe.action_space,
            "metadata": {name: value for name, value in self.metadata.items() if name != "autoreset_mode"},
            "np_random": sub_env.rng,
            "np_random_seed": sub_env.seed,
            "observation_space": self.recipe.observation_space,
            "render": lambda: render(self.render_mode, sub_env.episode.transcript, sub_env.episode.last_image),
            "render_mode": self.render_mode,
            "spec": self.spec,
            "task": sub_env.episode.task,
        }

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("the vector environment is closed")

    def _check_idle(self, members: Sequence[int]) -> None:
        busy = sorted(self._pending.intersection(members))
        if busy:
            raise AlreadyPendingCallError(f"members {busy} have pending steps: call recv first", "recv")

    def _check_alive(self, tasks: int) -> None:
        """Raise the last error if no member could start any of its last tasks."""
        error = self._members[-1].down
        if error is not None and all(member.tasks_missed >= tasks for member in self._members):
            raise error

    def _launch(self, work: Mapping[int, Callable[[], Coroutine[Any, Any, SubEnvResult]]]) -> None:
        """Start the members' work on the event loop: all of it, or none if interrupted before."""
        started = False

        async def start() -> None:
            nonlocal started
            started = True
            for i, begin in work.items():
                task = asyncio.get_running_loop().create_task(begin())
                self._tasks.add(task)
                task.add_done_callback(partial(self._land_one, i))

        try:
            self._pending |= work.keys()
            self._portal.run(start())
        except BaseException:
            if not started:
                self._pending -= work.keys()
            raise

    def _abandon(self) -> None:
        """Cancel pending steps."""
        if self._pending:
            self._portal.run(self._cancel())
            self._pending.clear()
            self._landed.clear()

    async def _cancel(self) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _land_one(self, i: int, task: asyncio.Task[SubEnvResult]) -> None:
        self._tasks.discard(task)
        self._landed[i] = task
        self._landing.set()

    def _land(self, count: int) -> dict[int, SubEnvResult]:
        """Wait for ``count`` members, take all completed ones, and raise the first internal error.

        An interrupt of the wait loses nothing: completed results are returned by the next call.
        """
        self._landing.clear()
        while len(self._landed) < count:
            self._landing.wait(WAIT_SECONDS)
            self._landing.clear()
        tasks = dict(self._landed)
        for i in tasks:
            self._pending.discard(i)
            del self._landed[i]
        return {i: task.result() for i, task in tasks.items()}

    def _batch(self, outcomes: Sequence[SubEnvResult]) -> Batch:
        """Outcomes in Gymnasium's batch format; infos follow its rules for the number of members received."""
        infos: dict[str, Any] = {}
        rules = _InfoBatch(len(outcomes))
        for index, outcome in enumerate(outcomes):
            if outcome.final is not None:
                final = {"final_obs": outcome.final.observation, "final_info": outcome.final.info}
                infos = rules._add_info(infos, final, index)
            infos = rules._add_info(infos, outcome.info, index)
        self._check_alive(tasks=1 + self._restarts)
        return (
            tuple(outcome.observation for outcome in outcomes),
            np.array([outcome.reward for outcome in outcomes], dtype=np.float64),
            np.array([outcome.terminated for outcome in outcomes], dtype=np.bool_),
            np.array([outcome.truncated for outcome in outcomes], dtype=np.bool_),
            infos,
        )

    def _seeds(self, seed: int | Sequence[int | None]) -> Sequence[int | None]:
        if isinstance(seed, int | np.integer):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"{len(seed)} seeds for num_envs={self.num_envs} members")
        return seed

    def _seed(self, seeds: Sequence[int | None], members: Sequence[int]) -> None:
        """Seed each member with its group's seed: equal generators draw equal tasks without shared state."""
        fresh = {leader: seeding.np_random(seeds[leader])[1] for leader in range(0, self.num_envs, self.group_size)}
        for i in members:
            leader = i - i % self.group_size
            if seeds[leader] is not None or not self._members[i].seeded:
                self._members[i].rng, self._members[i].seed = seeding.np_random(fresh[leader])
                self._members[i].seeded = True

    def _marked(self, mask: NDArray[np.bool_]) -> list[int]:
        """The members selected by a reset mask; invalid masks raise Gymnasium's own errors."""
        if not isinstance(mask, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"`options['reset_mask']` must be a numpy array, got {type(mask)}")
        if mask.shape != (self.num_envs,):
            raise ValueError(f"`options['reset_mask']` must have shape `({self.num_envs},)`, got {mask.shape}")
        if mask.dtype != np.bool_:
            raise TypeError(f"`options['reset_mask']` must have `dtype=np.bool_`, got {mask.dtype}")
        if not mask.any():
            needed = "must contain a boolean array with at least one True value"
            raise ValueError(f"`options['reset_mask']` {needed}, got reset_mask={mask}")
        return [int(i) for i in np.flatnonzero(mask)]

    def _named_tasks(self, options: Mapping[str, Any]) -> list[TaskRef | None]:
        indices = options.get("task_index")
        if indices is None or not hasattr(indices, "__len__"):
            return [self.recipe.named_task(options)] * self.num_envs
        if len(indices) != self.num_envs:
            raise ValueError(f"{len(indices)} task indices for {self.num_envs} members")
        return [self.recipe.named_task({**options, "task_index": index}) for index in indices]


class _InfoBatch(VectorEnv[Any, Any, Any]):
    """Gymnasium's rules for batching infos."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
