"""A pool of Ray actors that plays episodes: the same interface as one process, on as many as there are."""

from __future__ import annotations

import asyncio
import itertools
import logging
import ssl
import sys
import threading
import uuid
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Self, Unpack

import ray
from ray import cloudpickle
from ray.exceptions import RayError

from ors_gym.client.address import Address, with_key
from ors_gym.client.arguments import check_number, check_type, types_in_words
from ors_gym.client.janitor import Janitor
from ors_gym.policies.policy import Policy, check_policy
from ors_gym.rollouts.episode import RolloutLimits
from ors_gym.rollouts.groups import GroupRun, run_groups
from ors_gym.rollouts.options import SessionOptions, check_session_options
from ors_gym.trajectory import TaskRef, Trajectory
from ors_gym.types import GroupCandidate, GroupScore
from ors_gym_ray.rollouts.actor import RolloutActor
from ors_gym_ray.rollouts.actor_connection import ActorConnection
from ors_gym_ray.rollouts.cluster import connection, join_ray, spread_by_default
from ors_gym_ray.rollouts.events import Job
from ors_gym_ray.rollouts.places import Places

__all__ = ["RolloutPool"]

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 30.0
"""Seconds that closing the pool waits for its actors to close their sessions; the janitor closes the rest."""


class RolloutPool:
    """Plays episodes on ``num_actors`` Ray actors, up to ``episodes_per_actor`` at once on each.

    It is an :class:`~ors_gym.rollouts.EpisodeHost`: give it to :func:`~ors_gym.rollouts.groups.run_groups`, to
    ``ors_gym_trl.ORSRollouts(host=…)``, or use :meth:`run_groups`. The policy lives with the pool
    (``policy_placement="driver"``: where a trainer's weights are; what is new in each turn travels to it and its reply
    back, many to a message), or is copied to every actor (``"actors"``: a policy that calls an endpoint).

    **Deaths.** When an actor dies, or its process or node does, its episodes come back as failed with kind
    ``actor_died`` (a group then plays them again elsewhere), its sessions are deleted, and another actor is asked for,
    ``max_actor_restarts`` times in all. Episodes go to actors that live, so one that waits for resources holds up
    nobody; if none has lived for ``start_seconds``, waiting ends with an error. When the driver dies, killed without a
    word or not, a small process beside it (:class:`~ors_gym.Janitor`) deletes the sessions of all actors: no
    session is created before that process knows of it. Only the loss of the driver's whole machine leaves sessions to
    the server's expiry.

    **To watch.** Ray's dashboard and state API show the actors under the pool's ``name`` and a number; its metrics have
    ``ors_gym_episodes_running``, ``ors_gym_episodes_ended`` by how they ended, ``ors_gym_episodes_failed`` by kind, and
    seconds of episodes and tool calls. What the actors print and log reaches this process where the pool starts Ray.

    Ray is started on this machine if it is not running; ``address`` joins an existing cluster. The pool is used from
    one event loop at a time.

    Args:
        url: The ORS server, as every actor and this process reach it; or a name of the hosted catalogue.
        api_key: The server's key. None reads this process's variable ``ORS_API_KEY`` (see :class:`~ors_gym.ORSClient`).
        env_name: The environment that :meth:`run_groups` plays when it is given task indices.
        num_actors: Actor processes.
        episodes_per_actor: Sessions each holds at once.
        policy: Whom to ask, unless ``run_episode`` names another.
        policy_placement: Where ``policy`` runs.
        limits: When to cut episodes short; ``max_concurrent_sessions`` is ``episodes_per_actor`` here.
        address: The Ray cluster to join.
        actor_options: Ray's options for each actor (``num_cpus``, ``resources``, ``runtime_env``, …). Without a
            ``scheduling_strategy`` the actors are spread over the nodes; one with a placement group puts them where
            its bundles are.
        name: What the pool is called in Ray's dashboard, state API and metrics; after its environment by default.
        max_actor_restarts: How many dead actors are replaced in all; None is four for each actor.
        start_seconds: How long episodes wait for an actor to live when none does.
        client_options: Further arguments of every actor's ``ORSClient`` (``timeouts``, ``headers``, …).
        options: See :class:`~ors_gym.rollouts.options.SessionOptions`.
    """

    @types_in_words
    def __init__(
        self,
        url: str,
        *,
        env_name: str | None = None,
        api_key: str | None = None,
        num_actors: int = 2,
        episodes_per_actor: int = 128,
        policy: Policy | None = None,
        policy_placement: Literal["driver", "actors"] = "driver",
        limits: RolloutLimits | None = None,
        address: str | None = None,
        actor_options: Mapping[str, Any] | None = None,
        max_actor_restarts: int | None = None,
        start_seconds: float = 180.0,
        name: str | None = None,
        client_options: Mapping[str, Any] | None = None,
        **options: Unpack[SessionOptions],
    ) -> None:
        check_type("env_name", env_name, str)
        check_type("api_key", api_key, str)
        check_number("num_actors", num_actors, none=False, whole=True)
        check_number("episodes_per_actor", episodes_per_actor, none=False, whole=True)
        check_policy(policy)
        check_type("limits", limits, RolloutLimits)
        check_type("address", address, str)
        check_type("actor_options", actor_options, Mapping, what="a mapping")
        check_number("max_actor_restarts", max_actor_restarts, whole=True)
        check_number("start_seconds", start_seconds, none=False)
        check_type("name", name, str)
        check_type("client_options", client_options, Mapping, what="a mapping")
        if num_actors < 1 or episodes_per_actor < 1:
            raise ValueError("num_actors and episodes_per_actor must be at least 1")
        if policy_placement not in ("driver", "actors"):
            raise ValueError(f"policy_placement must be 'driver' or 'actors', not {policy_placement!r}")
        if not start_seconds > 0:
            raise ValueError("start_seconds must be positive")
        if "name" in (actor_options or {}):
            raise ValueError("the actors are called after the pool and numbered: give name=… to the RolloutPool")
        if isinstance((client_options or {}).get("verify"), ssl.SSLContext):
            raise ValueError("an SSLContext crosses no process: give verify the path of the certificates to trust")
        if policy_placement == "actors":
            _check_travels(policy)
        client_options = with_key(url, api_key, client_options)  # other machines do not have this one's variables
        self.url = url
        self.env_name = env_name = env_name or Address.of(url).env_name or None
        self.policy = policy
        self.num_actors = num_actors
        self.episodes_per_actor = episodes_per_actor
        self._policy_placement = policy_placement
        self._actor_options = spread_by_default(actor_options or {})
        self.name = name or env_name or "rollouts"
        self._numbers = itertools.count()
        self._actor_class: Any = ray.remote(RolloutActor)
        self._actor_class.options(**self._actor_options)  # refuses what Ray does not know
        runner_options = {
            "limits": replace(limits or RolloutLimits(), max_concurrent_sessions=episodes_per_actor),
            **check_session_options(options),
        }
        actor_policy = policy if policy_placement == "actors" else None
        self._actor_arguments = (url, dict(client_options or {}), runner_options, actor_policy)
        self._restarts_left = 4 * num_actors if max_actor_restarts is None else max_actor_restarts
        self._start_seconds = start_seconds
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._janitor = Janitor(url, client_options)
        try:
            self._started_ray = join_ray(address)
        except BaseException:
            self._janitor.close()
            raise
        self._connection = connection()
        self._workers = [self._new_worker() for _ in range(num_actors)]
        self._places = Places(self._workers, episodes_per_actor, start_seconds, self._actor_options)

    @property
    def num_living_actors(self) -> int:
        """Number of actors that play episodes; the others wait for resources of the cluster."""
        return self._places.num_living

    async def ready(self) -> None:
        """Wait until every actor lives that is or will be. Without it, the first episodes go to those that live first.

        Raises:
            TimeoutError: that took longer than ``start_seconds``.
            RayError, RuntimeError: as :meth:`run_episode`.
        """
        self._bind()
        try:
            async with asyncio.timeout(self._start_seconds):
                while not (self._workers and all(worker.alive for worker in self._workers)):
                    if error := self._places.hopeless():
                        raise error
                    await self._changed.wait()
        except TimeoutError:
            lived = f"{self.num_living_actors} of {len(self._workers)} actors of the RolloutPool came to life within"
            raise TimeoutError(f"{lived} {self._start_seconds:g} s: {self._places.missing()}") from None

    # ---------------------------------------------------------------- playing

    async def run_episode(
        self, task: TaskRef, *, policy: Policy | None = None, attempt: int = 0, seed: int | None = None
    ) -> Trajectory:
        """Play one episode on the least busy actor. An infrastructure failure comes back as a failed trajectory.

        Raises:
            TimeoutError: no actor started within ``start_seconds``.
            RayError: the actors cannot start, such as for want of a module.
            RuntimeError: the pool is closed, or every actor died and the restarts are spent.
        """
        ask_driver = policy is not None or self._policy_placement == "driver"
        asked = policy or self.policy
        if asked is None:
            raise ValueError("no policy: give one to the RolloutPool or to run_episode")
        self._bind()
        worker = await self._places.take()
        try:
            return await worker.play(Job(uuid.uuid4().hex, task, attempt, seed, ask_driver), asked)
        finally:
            self._places.give_back(worker)

    async def score_group(self, task: TaskRef, candidates: Sequence[GroupCandidate]) -> Sequence[GroupScore]:
        """Have the environment score trajectories of ``task`` against each other, from the least busy actor.

        Raises:
            NotFoundError: the environment does not score groups.
            ORSError: scoring failed.
        """
        self._bind()
        worker = await self._places.take()
        try:
            return await worker.score_group(task, candidates)
        finally:
            self._places.give_back(worker)

    def run_groups(
        self, tasks: Iterable[TaskRef | int], group_size: int, *, split: str = "train", **options: Any
    ) -> GroupRun:
        """Play a group of each task, given as a TaskRef or an index of ``split``; iterate over them as they complete.

        ``options`` are those of :func:`ors_gym.rollouts.groups.run_groups` (``policy``, ``failures``, …).
        ``max_concurrent_groups`` is by default as many as fill the actors, and one more. That bounds the memory: a
        consumer that is slow, or an endless ``tasks``, stops production there.
        """
        filling = -(-self.num_actors * self.episodes_per_actor // max(group_size, 1)) + 1
        options = {"max_concurrent_groups": filling, **options}
        return run_groups(self, (self._task(task, split) for task in tasks), group_size, **options)

    def _task(self, task: TaskRef | int, split: str) -> TaskRef:
        if isinstance(task, TaskRef):
            return task
        if self.env_name is None:
            raise ValueError("a task index needs RolloutPool(env_name=…)")
        return TaskRef(self.env_name, split, task)

    # ---------------------------------------------------------------- actors

    def _bind(self) -> None:
        """Listen to the actors on this event loop."""
        if error := self._places.hopeless():
            raise error
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None and self._loop.is_running():
            raise RuntimeError("the RolloutPool is being used from another event loop")
        self._loop = loop
        self._places.begin_again()
        self._listeners = set()
        for worker in self._workers:
            worker.forget_messages()
            self._listen(worker)

    def _listen(self, worker: ActorConnection) -> None:
        listener = asyncio.create_task(self._listen_to(worker, weakref.ref(self)))
        self._listeners.add(listener)
        listener.add_done_callback(self._listeners.discard)

    @staticmethod
    async def _listen_to(worker: ActorConnection, pool: weakref.ref[RolloutPool]) -> None:
        """Listen to an actor until it dies. A pool that only its listeners know of is collected."""

        def life_changed() -> None:
            if (alive := pool()) is not None:
                alive._life_changed()

        try:
            await worker.listen(life_changed)
        except Exception as bug:
            if (alive := pool()) is not None:
                alive._break(worker, bug)
        else:
            if (alive := pool()) is not None:
                alive._replace(worker)

    def _break(self, worker: ActorConnection, bug: Exception) -> None:
        """Raise a bug where episodes are awaited, so that none waits forever."""
        self._places.error = bug
        worker.fail(bug)
        self._life_changed()

    def _replace(self, worker: ActorConnection) -> None:
        """An actor died: put another in its place while the budget lasts."""
        self._workers.remove(worker)
        if self._closed:
            return
        if worker.left:
            self._places.error = RuntimeError(str(worker.death))
        elif worker.cannot_live and not self.num_living_actors:
            self._places.error = worker.death
        elif self._restarts_left > 0:
            self._restarts_left -= 1
            self._workers.append(self._new_worker())
            self._listen(self._workers[-1])
        where = f"on node {worker.home.node_id}" if worker.home else "before it came to life"
        why = " ".join(str(worker.death).split())[:500]
        logger.warning("a rollout actor died %s, %d restarts are left: %s", where, self._restarts_left, why)
        self._life_changed()

    def _life_changed(self) -> None:
        """An actor started or died: continue what waits for that."""
        self._changed.set()
        self._changed = asyncio.Event()
        self._places.hand_out()

    def _new_worker(self) -> ActorConnection:
        number = next(self._numbers)
        unique = f"{self.name}-{number}-{uuid.uuid4().hex[:6]}"  # a pool of the same name may live, or be about to die
        actor = self._actor_class.options(name=unique, **self._actor_options)
        return ActorConnection(actor.remote(self.name, number, *self._actor_arguments), self._janitor)

    # ---------------------------------------------------------------- closing

    def close(self) -> None:
        """End all episodes, close their sessions, stop the actors, and Ray too if the pool started it."""
        if self._closed:
            return
        self._closed = True
        self._places.error = RuntimeError("the RolloutPool is closed")
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)
        here = connection() == self._connection  # else the actors died when this process left their cluster
        closing = {worker.retire(): worker for worker in self._workers if here and worker.alive}
        if closing:
            closed, _ = ray.wait(list(closing), num_returns=len(closing), timeout=CLOSE_SECONDS)
            for reference in closed:
                with suppress(RayError):  # it died: the janitor deletes its sessions
                    closing[reference].hear_deletions(ray.get(reference))
        for worker in self._workers:
            worker.kill()
        self._janitor.close()
        if self._started_ray and here:
            ray.shutdown()

    def __del__(self) -> None:
        if "_workers" not in self.__dict__ or self._closed or sys.is_finalizing():
            return
        # From its own thread: closing waits for the actors, and objects are collected on any thread.
        close = self.close if connection() == self._connection else self._janitor.close
        threading.Thread(target=close, name="ors-gym closing", daemon=True).start()
        words = f"unclosed RolloutPool of {self.num_actors} actors: call close(), or use it as a context manager"
        warnings.warn(words, ResourceWarning, stacklevel=2, source=self)

    def _end(self) -> None:
        """On the event loop: end what is still awaited."""
        for listener in self._listeners:
            listener.cancel()
        for worker in self._workers:
            worker.fail(RuntimeError("the RolloutPool was closed"))
        self._places.hand_out()

    def __reduce__(self) -> Any:
        raise TypeError(
            "a RolloutPool stays in its process, which its actors answer to: make one in the task, actor or trainer "
            "rank that uses it (train_loop_config and arguments carry its url)"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_travels(policy: Policy | None) -> None:
    """Refuse a policy that cannot be copied to actors."""
    try:
        cloudpickle.dumps(policy)  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever its pickling raises
        raise ValueError(
            f"policy_placement='actors' copies the policy to every actor, and this {type(policy).__name__} cannot be "
            f"pickled: {error}. Let it open what it needs at its first turn, or leave it with the pool ('driver')"
        ) from None
