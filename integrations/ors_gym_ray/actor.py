"""The actor that plays episodes, and what it and its pool say to each other.

The pool hands over episodes with :meth:`RolloutActor.submit` and listens with :meth:`RolloutActor.poll`, a long poll
that returns whatever happened since the last one: turns that want an answer, and episodes that ended. Answers go back
with :meth:`RolloutActor.respond`. All three carry many items at once, so the number of Ray calls follows time, not the
number of episodes.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ors_gym.client import ORSClient
from ors_gym.policy import Policy, Reply, Turn
from ors_gym.rollout import EpisodeRunner
from ors_gym.trajectory import TaskRef, Trajectory

__all__ = ["Asked", "Broken", "Ended", "Event", "Job", "Opened", "RolloutActor"]


@dataclass(frozen=True, slots=True)
class Job:
    """One episode to play; ``ask_driver`` when its policy lives with the pool."""

    episode_id: str
    task: TaskRef
    attempt: int
    ask_driver: bool


@dataclass(frozen=True, slots=True)
class Opened:
    """An episode's session is open: the pool deletes it if this actor dies."""

    episode_id: str
    session_id: str


@dataclass(frozen=True, slots=True)
class Asked:
    """An episode waits for the policy's answer to this turn."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class Ended:
    """An episode is over."""

    trajectory: Trajectory


@dataclass(frozen=True, slots=True)
class Broken:
    """The actor's own policy, or a bug, raised while an episode was played."""

    episode_id: str
    error: Exception


Event = Opened | Asked | Ended | Broken


class RolloutActor:
    """Plays episodes on its own event loop; a Ray *async* actor."""

    def __init__(
        self, url: str, client_options: Mapping[str, Any], runner_options: Mapping[str, Any], policy: Policy | None
    ) -> None:
        self._url = url
        self._client_options = client_options
        self._runner_options = runner_options
        self._policy = policy
        self._runner: EpisodeRunner | None = None
        self._events: list[Event] = []
        self._happened = asyncio.Event()
        self._episodes: dict[str, asyncio.Task[None]] = {}
        self._answers: dict[str, asyncio.Future[Reply]] = {}

    async def submit(self, jobs: Sequence[Job]) -> None:
        """Begin these episodes."""
        for job in jobs:
            self._episodes[job.episode_id] = asyncio.create_task(self._play(job))

    async def respond(self, replies: Sequence[tuple[str, Reply]]) -> None:
        """Hand the policy's replies to the episodes, named by their ids, that wait for them."""
        for episode_id, reply in replies:
            answer = self._answers.pop(episode_id, None)
            if answer is not None and not answer.done():
                answer.set_result(reply)

    async def cancel(self, episode_ids: Sequence[str]) -> None:
        """End these episodes, if they are still being played, and close their sessions."""
        for episode_id in episode_ids:
            if task := self._episodes.get(episode_id):
                task.cancel()

    async def poll(self) -> list[Event]:
        """Wait until something happened; return all of it, in order."""
        await self._happened.wait()
        self._happened.clear()
        events, self._events = self._events, []
        return events

    async def close(self) -> None:
        """End every episode and close its session."""
        episodes = list(self._episodes.values())
        for task in episodes:
            task.cancel()
        await asyncio.gather(*episodes, return_exceptions=True)
        if self._runner is not None:
            await self._runner.client.aclose()

    async def act(self, turn: Turn) -> Reply:
        """The policy of episodes whose real policy lives with the pool."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._answers[turn.episode_id] = answer
        self._tell(Asked(turn))
        try:
            return await answer
        finally:
            self._answers.pop(turn.episode_id, None)

    async def _play(self, job: Job) -> None:
        if self._runner is None:
            client = ORSClient(self._url, **self._client_options)
            self._runner = EpisodeRunner(client, on_session=self._opened, **self._runner_options)
        policy = self if job.ask_driver else self._policy
        try:
            trajectory = await self._runner.run_episode(
                job.task, policy=policy, attempt=job.attempt, episode_id=job.episode_id
            )
            self._tell(Ended(trajectory))
        except Exception as error:  # a policy's fault or a bug: told to the pool, which raises it where it is awaited
            error.add_note(f"It was raised on the Ray actor:\n{traceback.format_exc()}")
            self._tell(Broken(job.episode_id, error))
        finally:
            del self._episodes[job.episode_id]

    def _opened(self, episode_id: str, session_id: str) -> None:
        self._tell(Opened(episode_id, session_id))

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        self._happened.set()
