"""The actor that plays episodes.

The pool submits episodes with :meth:`RolloutActor.submit` and listens with :meth:`RolloutActor.poll`, a long poll
that returns whatever happened since. Answers go back with :meth:`RolloutActor.respond`. All three carry many items at
once, so the number of Ray calls follows time, not the number of episodes.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray import cloudpickle

from ors_gym.client.client import ORSClient
from ors_gym.errors import ORSError
from ors_gym.policies.policy import Policy, Reply, Turn
from ors_gym.rollouts.episode import EpisodeRunner
from ors_gym.trajectory import TaskRef
from ors_gym.types import GroupCandidate, GroupScore, ToolList
from ors_gym_ray.rollouts.events import Broken, Deleted, Ended, Event, Home, Job, Opening, TurnRequested
from ors_gym_ray.rollouts.metrics import EpisodeMetrics

__all__ = ["RolloutActor"]


class RolloutActor:
    """Plays episodes on its own event loop; a Ray *async* actor, and the journal of its client's sessions."""

    _name = "actor"  # Ray asks for it also where __init__ was not called, for want of an argument

    def __init__(
        self,
        pool: str,
        number: int,
        url: str,
        client_options: Mapping[str, Any],
        runner_options: Mapping[str, Any],
        policy: Policy | None,
    ) -> None:
        self._name = f"{pool}-{number}"
        self._metrics = EpisodeMetrics(pool, number)
        self._url = url
        self._client_options = client_options
        self._runner_options = runner_options
        self._policy = policy
        self._runner: EpisodeRunner | None = None
        self._events: deque[tuple[int, Event]] = deque()
        self._numbers = itertools.count(1)
        self._happened = asyncio.Event()
        self._episodes: dict[str, asyncio.Task[None]] = {}
        self._known: dict[str, int] = {}
        self._answers: dict[str, asyncio.Future[Reply]] = {}
        self._notices: dict[str, asyncio.Future[None]] = {}

    def __repr__(self) -> str:
        """Prefix of the lines that it prints, as Ray forwards them."""
        return f"rollouts {self._name}"

    async def ready(self) -> Home:
        """Say where the actor lives; the first answer is its sign of life."""
        if self._runner is None:
            client = ORSClient(self._url, journal=self, **self._client_options)
            self._runner = EpisodeRunner(client, **self._runner_options)
        return Home(ray.get_runtime_context().get_node_id(), os.getpid())

    # ---------------------------------------------------------------- what the pool asks for

    async def submit(self, jobs: Sequence[Job]) -> None:
        """Begin these episodes."""
        for job in jobs:
            task = self._episodes[job.episode_id] = asyncio.create_task(self._play(job), name=job.episode_id)
            task.add_done_callback(self._forget)
        self._metrics.running(len(self._episodes))

    async def respond(self, replies: Sequence[tuple[str, Reply]], noted: Sequence[str]) -> None:
        """Hand the policy's replies to the episodes that wait for them, and let the sessions that were noted open."""
        for episode_id, reply in replies:
            answer = self._answers.get(episode_id)
            if answer is not None and not answer.done():
                answer.set_result(reply)
        for session_id in noted:
            notice = self._notices.get(session_id)
            if notice is not None and not notice.done():
                notice.set_result(None)

    async def cancel(self, episode_ids: Sequence[str]) -> None:
        """End these episodes, if they are still being played, and close their sessions."""
        for episode_id in episode_ids:
            if task := self._episodes.get(episode_id):
                task.cancel()

    async def poll(self, heard: int) -> list[tuple[int, Event]]:
        """Wait for events after number ``heard`` and return them in order.

        Events are kept until a later poll acknowledges them, so an answer that was lost is sent again.
        """
        while self._events and self._events[0][0] <= heard:
            self._events.popleft()
        while not self._events:
            self._happened.clear()
            await self._happened.wait()
        return list(self._events)

    async def score_group(self, task: TaskRef, candidates: Sequence[GroupCandidate]) -> Sequence[GroupScore] | ORSError:
        """Have the environment score a group; an infrastructure failure is returned, since Ray would wrap it."""
        assert self._runner is not None
        try:
            return await self._runner.score_group(task, candidates)
        except ORSError as error:
            return error

    async def close(self) -> list[tuple[int, Event]]:
        """End every episode and close its session; return the events that the pool has not received."""
        episodes = list(self._episodes.values())
        for task in episodes:
            task.cancel()
        await asyncio.gather(*episodes, return_exceptions=True)
        if self._runner is not None:
            await self._runner.client.aclose()
        return list(self._events)

    # ---------------------------------------------------------------- what the episodes ask for

    async def act(self, turn: Turn) -> Reply:
        """The policy of episodes whose real policy lives with the pool."""
        known = self._known.get(turn.episode_id, 0)
        self._known[turn.episode_id] = len(turn.messages)
        news = replace(turn, messages=turn.messages[known:], tools=ToolList() if known else turn.tools)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._answers[turn.episode_id] = answer
        self._tell(TurnRequested(news, known))
        try:
            return await answer
        finally:
            del self._answers[turn.episode_id]

    async def opening(self, session_id: str, headers: Mapping[str, str]) -> None:
        """Wait until the pool has noted a session that is about to be created."""
        notice: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._notices[session_id] = notice
        self._tell(Opening(session_id, headers))
        try:
            await notice
        except asyncio.CancelledError:
            self.deleted(session_id)
            raise
        finally:
            del self._notices[session_id]

    def deleted(self, session_id: str) -> None:
        """Tell the pool that a session is gone."""
        self._tell(Deleted(session_id))

    async def _play(self, job: Job) -> None:
        assert self._runner is not None
        policy = self if job.ask_driver else self._policy
        try:
            trajectory = await self._runner.run_episode(
                job.task, policy=policy, attempt=job.attempt, seed=job.seed, episode_id=job.episode_id
            )
            self._tell(Ended(trajectory))
            self._metrics.ended(trajectory)
        except Exception as error:  # a policy's error or a bug: sent to the pool, which raises it where it is awaited
            self._tell(Broken(job.episode_id, _portable(error)))

    def _forget(self, task: asyncio.Task[None]) -> None:
        """Called when an episode has ended; _play cannot do it, for one that is cancelled early never begins."""
        del self._episodes[task.get_name()]
        self._known.pop(task.get_name(), None)
        self._metrics.running(len(self._episodes))

    def _tell(self, event: Event) -> None:
        self._events.append((next(self._numbers), event))
        self._happened.set()


def _portable(error: Exception) -> Exception:
    """The error with its traceback as a note; a RuntimeError in its place if it cannot travel."""
    trace = "".join(traceback.format_exception(error))
    try:
        error = cloudpickle.loads(cloudpickle.dumps(error))  # type: ignore[no-untyped-call]
    except Exception:  # its pickling may raise any exception
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"It was raised on the Ray actor:\n{trace}")
    return error
