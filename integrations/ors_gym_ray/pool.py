"""A pool of Ray actors that plays episodes: the same interface as one process, on as many as there are."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, Self

import ray
from ray.exceptions import RayActorError

from ors_gym.client import ORSClient
from ors_gym.policy import Policy, Reply, Turn
from ors_gym.rollout import RolloutLimits, run_groups
from ors_gym.trajectory import Failure, StopReason, TaskRef, Trajectory, TrajectoryGroup
from ors_gym.types import ToolList
from ors_gym_ray.actor import Asked, Broken, Ended, Event, Job, Opened, RolloutActor

__all__ = ["RolloutPool"]


class RolloutPool:
    """Plays episodes on ``num_actors`` Ray actors, up to ``episodes_per_actor`` at once on each.

    It is an :class:`~ors_gym.rollout.EpisodeHost`: give it to :func:`~ors_gym.rollout.run_groups`, to
    ``ors_gym_trl.ORSRollouts(host=…)``, or use :meth:`run_groups`. The policy lives with the pool
    (``policy_placement="driver"``: where a trainer's weights are; each turn travels to it and its reply back, many to
    a message), or is copied to every actor (``"actors"``: a policy that calls an endpoint).

    When an actor dies, its sessions are deleted, its episodes come back as failed with kind ``actor_died`` (a group
    then plays them again elsewhere) and another actor takes its place, up to ``max_actor_restarts`` times in all.

    Ray is started on this machine if it is not running; ``address`` joins an existing cluster. Everything runs on the
    event loop that first uses the pool.

    Args:
        url: The ORS server, as every actor reaches it.
        env_name: The environment that :meth:`run_groups` plays when it is given task indices.
        num_actors: Actor processes.
        episodes_per_actor: Sessions each holds at once.
        policy: Whom to ask, unless ``run_episode`` names another.
        policy_placement: Where ``policy`` runs.
        limits: When to cut episodes short.
        secrets: Passed to each session; never logged, never in a trajectory.
        toolset: The reference SDK's built-in toolset to open sessions with.
        tools: The tools, where they are known to be the same for every task: saves one request an episode.
        address: The Ray cluster to join.
        actor_options: Ray's options for each actor (``num_cpus``, ``resources``, ``scheduling_strategy``, …).
        max_actor_restarts: How many dead actors are replaced before the pool gives up.
        client_options: Further arguments of every actor's ``ORSClient`` (``api_key``, ``timeouts``, …).
    """

    def __init__(
        self,
        url: str,
        *,
        env_name: str | None = None,
        num_actors: int = 2,
        episodes_per_actor: int = 128,
        policy: Policy | None = None,
        policy_placement: Literal["driver", "actors"] = "driver",
        limits: RolloutLimits | None = None,
        secrets: Mapping[str, str] | None = None,
        toolset: str | None = None,
        tools: ToolList | None = None,
        address: str | None = None,
        actor_options: Mapping[str, Any] | None = None,
        max_actor_restarts: int = 8,
        client_options: Mapping[str, Any] | None = None,
    ) -> None:
        if num_actors < 1 or episodes_per_actor < 1:
            raise ValueError("num_actors and episodes_per_actor must be at least 1")
        self.url = url
        self.env_name = env_name
        self.policy = policy
        self._policy_placement = policy_placement
        self._actor_options: dict[str, Any] = {"num_cpus": 0.25, "max_concurrency": 1000, **(actor_options or {})}
        runner_options = {"limits": limits, "secrets": secrets, "toolset": toolset, "tools": tools}
        actor_policy = policy if policy_placement == "actors" else None
        self._client_options = dict(client_options or {})
        self._actor_arguments = (url, self._client_options, runner_options, actor_policy)
        self._restarts_left = max_actor_restarts
        self._places = asyncio.Semaphore(num_actors * episodes_per_actor)
        self._started_ray = not ray.is_initialized()
        if self._started_ray:
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        self._workers = [self._new_worker() for _ in range(num_actors)]
        self._closed = False

    @property
    def num_actors(self) -> int:
        """How many actors play episodes now."""
        return len(self._workers)

    async def run_episode(self, task: TaskRef, *, policy: Policy | None = None, attempt: int = 0) -> Trajectory:
        """Play one episode on the least busy actor. A fault of the world comes back as a failed trajectory."""
        if self._closed:
            raise RuntimeError("the RolloutPool is closed")
        ask_driver = policy is not None or self._policy_placement == "driver"
        asked = policy or self.policy
        if asked is None:
            raise ValueError("no policy: give one to the RolloutPool or to run_episode")
        async with self._places:
            if not self._workers:
                raise RuntimeError("every actor of the RolloutPool died and its max_actor_restarts are spent")
            worker = min(self._workers, key=lambda worker: len(worker.episodes))
            job = Job(uuid.uuid4().hex, task, attempt, ask_driver)
            return await worker.play(job, asked)

    async def run_groups(
        self, tasks: Iterable[TaskRef | int], group_size: int, *, split: str = "train", **options: Any
    ) -> AsyncIterator[TrajectoryGroup]:
        """Play a group of each task, given as a TaskRef or an index of ``split``; yield groups as they complete.

        ``options`` are those of :func:`ors_gym.rollout.run_groups` (``policy``, ``failures``, …).
        """
        async for group in run_groups(self, (self._task(task, split) for task in tasks), group_size, **options):
            yield group

    def _task(self, task: TaskRef | int, split: str) -> TaskRef:
        if isinstance(task, TaskRef):
            return task
        if self.env_name is None:
            raise ValueError("a task index needs RolloutPool(env_name=…)")
        return TaskRef(self.env_name, split, task)

    def close(self) -> None:
        """End all episodes, close their sessions, stop the actors, and Ray too if the pool started it."""
        if self._closed:
            return
        self._closed = True
        closing = [worker.actor.close.remote() for worker in self._workers]
        ray.wait(closing, num_returns=len(closing), timeout=30)
        for worker in self._workers:
            worker.stop_listening()
            ray.kill(worker.actor)
        self._workers.clear()
        if self._started_ray:
            ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _new_worker(self) -> _Worker:
        actor = ray.remote(RolloutActor).options(**self._actor_options).remote(*self._actor_arguments)
        return _Worker(actor, self._replace)

    async def _replace(self, worker: _Worker) -> None:
        """Put a new actor in a dead one's place, while the budget lasts, and delete the sessions it left open."""
        if self._closed or worker not in self._workers:
            return
        self._workers.remove(worker)
        if self._restarts_left > 0:
            self._restarts_left -= 1
            self._workers.append(self._new_worker())
        async with ORSClient(self.url, **self._client_options) as client:
            await asyncio.gather(*(client.delete_session(*session) for session in worker.open_sessions()))


class _Worker:
    """The pool's side of one actor: what it plays, and what waits to be sent to it."""

    def __init__(self, actor: Any, on_death: Callable[[_Worker], Awaitable[None]]) -> None:
        self.actor = actor
        self.episodes: dict[str, tuple[Job, Policy, asyncio.Future[Trajectory]]] = {}
        self._sessions: dict[str, str] = {}
        self._on_death = on_death
        self._jobs: list[Job] = []
        self._replies: list[tuple[str, Reply]] = []
        self._flushing = False
        self._listener: asyncio.Task[None] | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def play(self, job: Job, policy: Policy) -> Trajectory:
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen())
        future: asyncio.Future[Trajectory] = asyncio.get_running_loop().create_future()
        self.episodes[job.episode_id] = (job, policy, future)
        self._jobs.append(job)
        self._flush_soon()
        try:
            return await future
        finally:
            if future.cancelled():
                self.actor.cancel.remote([job.episode_id])
            del self.episodes[job.episode_id]
            self._sessions.pop(job.episode_id, None)

    def open_sessions(self) -> list[tuple[str, str]]:
        """The environment's name and the id of each session that was not closed, as far as the actor told."""
        return [
            (self.episodes[episode_id][0].task.env_name, session_id)
            for episode_id, session_id in self._sessions.items()
            if episode_id in self.episodes
        ]

    def stop_listening(self) -> None:
        """End the long poll; from any thread."""
        if self._listener is not None and not self._listener.get_loop().is_closed():
            self._listener.get_loop().call_soon_threadsafe(self._listener.cancel)

    async def _listen(self) -> None:
        while True:
            try:
                events: list[Event] = await self.actor.poll.remote()
            except RayActorError as death:
                await self._on_death(self)
                self._bury(death)
                return
            for event in events:
                match event:
                    case Opened(episode_id, session_id):
                        self._sessions[episode_id] = session_id
                    case Asked(turn):
                        self._start_answer(turn)
                    case Ended(trajectory):
                        self._settle(trajectory.episode_id, trajectory)
                    case Broken(episode_id, error):
                        self._settle(episode_id, error)

    def _start_answer(self, turn: Turn) -> None:
        if turn.episode_id in self.episodes:
            answering = asyncio.create_task(self._answer(turn, self.episodes[turn.episode_id][1]))
            self._answering.add(answering)
            answering.add_done_callback(self._answering.discard)

    async def _answer(self, turn: Turn, policy: Policy) -> None:
        try:
            reply = await policy.act(turn)
        except Exception as error:  # raised where the episode is awaited
            self._settle(turn.episode_id, error)
            self.actor.cancel.remote([turn.episode_id])
            return
        self._replies.append((turn.episode_id, reply))
        self._flush_soon()

    def _settle(self, episode_id: str, outcome: Trajectory | Exception) -> None:
        _, _, future = self.episodes.get(episode_id, (None, None, None))
        if future is None or future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def _bury(self, death: RayActorError) -> None:
        """Settle what the dead actor played: failed, unless it never came to life, which trying again will not mend."""
        failure = Failure("actor_died", f"the Ray actor that played the episode died: {death}")
        for job, _, _ in list(self.episodes.values()):
            lost = Trajectory(job.episode_id, job.task, StopReason.FAILED, failure=failure, attempt=job.attempt)
            self._settle(job.episode_id, death if death.actor_init_failed else lost)

    def _flush_soon(self) -> None:
        """Send once for everything that piles up in this tick of the loop."""
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._jobs:
            self.actor.submit.remote(self._jobs)
            self._jobs = []
        if self._replies:
            self.actor.respond.remote(self._replies)
            self._replies = []
