"""The pool's side of one actor: what it plays, what waits to be sent to it, and what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from ors_gym.client.janitor import Janitor
from ors_gym.errors import ConnectionLostError, ORSError
from ors_gym.policies.asking import ask
from ors_gym.policies.policy import Policy, Reply, Turn
from ors_gym.trajectory import Failure, StopReason, TaskRef, Trajectory
from ors_gym.types import GroupCandidate, GroupScore, Message, ToolList
from ors_gym_ray.rollouts.cluster import LeftClusterError, connection
from ors_gym_ray.rollouts.events import Broken, Deleted, Ended, Event, Home, Job, Opening, TurnRequested

__all__ = ["ActorConnection"]

LEFT_SECONDS = 1.0
"""Interval at which a wait for an actor checks that this process is still connected to Ray."""


@dataclass(slots=True, eq=False)
class _Playing:
    """An episode that the actor plays."""

    job: Job
    policy: Policy
    outcome: asyncio.Future[Trajectory]
    messages: tuple[Message, ...] = ()
    tools: ToolList = field(default_factory=ToolList)
    answering: asyncio.Task[None] | None = None


class ActorConnection:
    """One actor, from its creation to its death. ``places`` are taken and given back by the pool."""

    def __init__(self, actor: Any, janitor: Janitor) -> None:
        self.actor = actor
        self.home: Home | None = None
        """The actor's node; None before it started."""
        self.death: RayError | None = None
        self.left = False
        """Whether this process left the cluster of the actor (``ray.shutdown()``); the actor dies of it."""
        self.places_taken = 0
        self._janitor = janitor
        self._connection = connection()
        self._episodes: dict[str, _Playing] = {}
        self._sessions: set[str] = set()
        self._heard = 0
        self._jobs: list[Job] = []
        self._replies: list[tuple[str, Reply]] = []
        self._noted: list[str] = []
        self._flushing = False
        self._retired = False

    @property
    def alive(self) -> bool:
        """Whether it started and is not known to have died."""
        return self.home is not None and self.death is None

    async def play(self, job: Job, policy: Policy) -> Trajectory:
        """Play one episode; failed with kind ``actor_died`` if the actor does not live to its end."""
        playing = _Playing(job, policy, asyncio.get_running_loop().create_future())
        self._episodes[job.episode_id] = playing
        self._jobs.append(job)
        self._flush_soon()
        try:
            return await playing.outcome
        finally:
            del self._episodes[job.episode_id]
            if playing.answering is not None:
                playing.answering.cancel()
            if playing.outcome.cancelled():
                self._cancel(job.episode_id)

    async def score_group(self, task: TaskRef, candidates: Iterable[GroupCandidate]) -> tuple[GroupScore, ...]:
        """Have the environment score a group."""
        try:
            scores: Iterable[GroupScore] | ORSError = await self._answer_of("score_group", task, list(candidates))
        except RayTaskError:
            raise
        except RayError as error:
            raise ConnectionLostError(f"the Ray actor that scored the group died: {error}") from None
        if isinstance(scores, ORSError):
            raise scores
        return tuple(scores)

    async def listen(self, on_life: Callable[[], None]) -> None:
        """Take in what the actor says until it dies, which settles its episodes and abandons its sessions."""
        try:
            self.home = await self._answer_of("ready")
            on_life()
            while True:
                self.hear(await self._answer_of("poll", self._heard))
        except RayError as death:  # or unreachable, which cannot be distinguished from dead, so it is killed
            self.death = LeftClusterError() if self._has_left() else death
        self.kill()
        self._janitor.abandon(self._sessions)
        self._sessions.clear()
        for playing in list(self._episodes.values()):
            if not playing.outcome.done():
                self._lose(playing)

    async def _answer_of(self, method: str, *arguments: Any) -> Any:
        """The actor's answer.

        Raises:
            RayError: it died, or this process left its cluster.
        """
        if not self._has_left():
            answer = asyncio.wrap_future(getattr(self.actor, method).remote(*arguments).future())
            try:
                while not self._has_left():
                    if (await asyncio.wait([answer], timeout=LEFT_SECONDS))[0]:
                        return answer.result()
            finally:
                answer.cancel()
        raise LeftClusterError()

    def _has_left(self) -> bool:
        self.left = self.left or connection() != self._connection
        return self.left

    def kill(self) -> None:
        """Kill the actor, if it lives."""
        if not self._has_left():
            ray.kill(self.actor)

    def retire(self) -> Any:
        """Ask the actor to close its sessions, and end the exchange; returns a reference to the remaining events."""
        self._retired = True
        return self.actor.close.remote()

    def hear_deletions(self, events: Iterable[tuple[int, Event]]) -> None:
        """Take in which sessions a closed actor deleted; from any thread."""
        self._janitor.deleted(*(event.session_id for _, event in events if isinstance(event, Deleted)))

    def forget_messages(self) -> None:
        """Restart on another event loop; items still to be sent belong to episodes that ended with the previous one."""
        self._jobs, self._replies, self._noted = [], [], []
        self._flushing = False

    @property
    def _mute(self) -> bool:
        return self._retired or self.death is not None or self._has_left()

    @property
    def cannot_live(self) -> bool:
        """Whether its own code caused its death, so that a retry does not help."""
        return isinstance(self.death, RayTaskError) or (
            isinstance(self.death, RayActorError) and self.death.actor_init_failed
        )

    def hear(self, events: Iterable[tuple[int, Event]]) -> None:
        """Process events, skipping those received before."""
        for number, event in events:
            if number <= self._heard:
                continue
            self._heard = number
            match event:
                case Opening(session_id, headers):
                    self._sessions.add(session_id)
                    self._janitor.note({session_id: headers})
                    self._noted.append(session_id)
                    self._flush_soon()
                case Deleted(session_id):
                    self._sessions.discard(session_id)
                    self._janitor.deleted(session_id)
                case TurnRequested(turn, known):
                    self._ask(turn, known)
                case Ended(trajectory):
                    self._settle(trajectory.episode_id, trajectory)
                case Broken(episode_id, error):
                    self._settle(episode_id, error)

    def fail(self, error: Exception) -> None:
        """End what is being played with an error."""
        for episode_id in list(self._episodes):
            self._settle(episode_id, error)

    def _ask(self, turn: Turn, known: int) -> None:
        playing = self._episodes.get(turn.episode_id)
        if playing is None:  # cancelled; Ray keeps no order among calls, so that may have come before the job
            self._cancel(turn.episode_id)
            return
        playing.messages = playing.messages[:known] + turn.messages
        playing.tools = playing.tools if known else turn.tools
        whole = replace(turn, messages=playing.messages, tools=playing.tools)
        playing.answering = asyncio.create_task(self._answer(whole, playing))

    async def _answer(self, turn: Turn, playing: _Playing) -> None:
        try:
            reply = await ask(playing.policy, turn)
        except asyncio.CancelledError:
            playing.outcome.cancel()  # unless it is what ended: then this is the cancellation
            raise
        except Exception as error:  # raised where the episode is awaited
            self._settle(turn.episode_id, error)
            self._cancel(turn.episode_id)
            return
        self._replies.append((turn.episode_id, reply))
        self._flush_soon()

    def _cancel(self, episode_id: str) -> None:
        if not self._mute:
            self.actor.cancel.remote([episode_id])

    def _settle(self, episode_id: str, outcome: Trajectory | Exception) -> None:
        playing = self._episodes.get(episode_id)
        if playing is None or playing.outcome.done():
            return
        if isinstance(outcome, Exception):
            playing.outcome.set_exception(outcome)
        else:
            playing.outcome.set_result(outcome)

    def _lose(self, playing: _Playing) -> None:
        """Settle an episode of a dead actor."""
        assert self.death is not None
        if self.cannot_live:
            playing.outcome.set_exception(self.death)
        else:
            job = playing.job
            failure = Failure("actor_died", f"the Ray actor that played the episode died: {self.death}")
            lost = Trajectory(job.episode_id, job.task, StopReason.FAILED, failure=failure, attempt=job.attempt)
            playing.outcome.set_result(lost)

    def _flush_soon(self) -> None:
        """Send once for everything that piles up in this tick of the loop."""
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._mute:
            return
        if self._jobs:
            self.actor.submit.remote(self._jobs)
        if self._replies or self._noted:
            self.actor.respond.remote(self._replies, self._noted)
        self._jobs, self._replies, self._noted = [], [], []
