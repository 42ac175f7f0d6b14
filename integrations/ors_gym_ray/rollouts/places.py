"""Slots for episodes on a pool's actors: the queue for them, and the error if none becomes free."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from ors_gym_ray.rollouts.actor_connection import ActorConnection
from ors_gym_ray.rollouts.cluster import wanted_and_free

__all__ = ["Places"]

logger = logging.getLogger(__name__)

NOTICE_SECONDS = 10.0
"""Wait for a first actor to live before the log says what the actors wait for."""


class Places:
    """``places_per_actor`` for episodes on each living actor.

    Args:
        workers: The pool's actors; the pool changes the list.
        places_per_actor: Episodes that one plays at once.
        start_seconds: How long an episode waits for an actor to live when none does.
        actor_options: Ray's of each actor, to say what it waits for.
    """

    def __init__(
        self,
        workers: Sequence[ActorConnection],
        places_per_actor: int,
        start_seconds: float,
        actor_options: Mapping[str, Any],
    ) -> None:
        self.error: Exception | None = None
        """Why no actor will take another episode, where that is so."""
        self._workers = workers
        self._places_per_actor = places_per_actor
        self._start_seconds = start_seconds
        self._actor_options = actor_options
        self._waiting: deque[asyncio.Future[ActorConnection]] = deque()
        self._timers: list[asyncio.TimerHandle] = []

    @property
    def num_living(self) -> int:
        """Actors that play episodes now."""
        return sum(worker.alive for worker in self._workers)

    def hopeless(self) -> Exception | None:
        """Why no actor will ever take another episode."""
        if self.error is None and not self._workers:
            return RuntimeError("every actor of the RolloutPool died and its max_actor_restarts are spent")
        return self.error

    def missing(self) -> str:
        """The reasons why actors have not started."""
        return f"{len(self._workers) - self.num_living} wait for {wanted_and_free(self._actor_options)}"

    def begin_again(self) -> None:
        """Forget who waited on an event loop that has ended."""
        self._waiting.clear()
        self._timers = []

    async def take(self) -> ActorConnection:
        """A living actor with a place free: the least busy one, when it is this caller's turn."""
        while True:
            turn: asyncio.Future[ActorConnection] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            self.hand_out()
            try:
                worker = await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled() and turn.exception() is None:
                    self.give_back(turn.result())
                raise
            if worker.death is None:
                return worker
            self.give_back(worker)

    def give_back(self, worker: ActorConnection) -> None:
        """An episode has ended."""
        worker.places_taken -= 1
        self.hand_out()

    def hand_out(self) -> None:
        """Give free places to those who wait, or an error if there will be none."""
        living = [worker for worker in self._workers if worker.alive]
        while self._waiting:
            if self._waiting[0].done():  # cancelled
                self._waiting.popleft()
            elif error := self.hopeless():
                self._waiting.popleft().set_exception(error)
            else:
                worker = min(living, key=lambda worker: worker.places_taken, default=None)
                if worker is None or worker.places_taken >= self._places_per_actor:
                    break
                worker.places_taken += 1
                self._waiting.popleft().set_result(worker)
        if living or not self._waiting:
            while self._timers:
                self._timers.pop().cancel()
        elif not self._timers:
            loop = asyncio.get_running_loop()
            self._timers = [
                loop.call_later(self._start_seconds, self._give_up),
                loop.call_later(NOTICE_SECONDS, self._say),
            ]

    def _say(self) -> None:
        logger.warning("no actor of the RolloutPool lives yet: %s", self.missing())

    def _give_up(self) -> None:
        self._timers.pop().cancel()
        self._timers = []
        error = f"no actor of the RolloutPool came to life within {self._start_seconds:g} s: {self.missing()}"
        while self._waiting:
            if not (turn := self._waiting.popleft()).done():
                turn.set_exception(TimeoutError(error))
