"""Groups that stay in play from one batch to the next, so that a batch does not wait for its slowest group.

More groups are in play than a batch has places. A batch takes the first ones to complete. The others keep their
sessions and their tokens, continue in the next batch with the new weights, and are trained on whole when they are
complete: no episode is cut or dropped for being long. As many groups begin in each batch as end in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from ors_gym.client.portal import Portal
from ors_gym.trajectory import TrajectoryGroup
from ors_gym_trl.play import PlannedGroup, PlayedGroup, play_groups
from ors_gym_trl.sampling.sampler import SampledTurn, Sampler
from ors_gym_trl.tokens.record import ImageInputs

__all__ = ["CarriedGroups"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """A group in play."""

    planned: PlannedGroup
    work: asyncio.Task[list[TrajectoryGroup]]
    begun: int
    """The number of the batch in which it began."""


class CarriedGroups:
    """The groups of one training that are in play between its batches, on the portal's event loop.

    Args:
        portal: The event loop of the episodes.
        count: Groups in play beyond the places of a batch.
        max_staleness: Batches after which a group is waited for.
    """

    def __init__(self, portal: Portal, count: int, max_staleness: int) -> None:
        self.count = count
        self._portal = portal
        self._max_staleness = max_staleness
        self._batch = 0
        self._groups: list[_Group] = []
        self._sampler: Sampler | None = None
        self._sampling = asyncio.Event()
        self._turns: set[asyncio.Future[SampledTurn]] = set()

    @property
    def num_missing(self) -> int:
        """Groups to begin beside those of the next batch's places."""
        return self.count - len(self._groups)

    def submit(
        self, prompt: Sequence[int], max_new_tokens: int, pictures: Sequence[ImageInputs] = (), seed: int | None = None
    ) -> Future[SampledTurn]:
        """Sample a turn from the current batch's sampler; between batches the turn waits for the next one's."""
        return self._portal.submit(self._sample(list(prompt), max_new_tokens, pictures, seed))

    async def _sample(
        self, prompt: list[int], max_new_tokens: int, pictures: Sequence[ImageInputs], seed: int | None
    ) -> SampledTurn:
        while self._sampler is None:
            await self._sampling.wait()
        turn = asyncio.wrap_future(self._sampler.submit(prompt, max_new_tokens, pictures, seed))
        self._turns.add(turn)
        try:
            return await turn
        finally:
            self._turns.discard(turn)

    async def play(self, plan: Sequence[PlannedGroup], sampler: Sampler, *, training: bool) -> list[PlayedGroup]:
        """Play a batch: one of training begins the groups of ``plan`` and returns as many as are in it with a place.

        An evaluation plays its own groups to their end. Those in play continue meanwhile: they may have sessions that
        the evaluation waits for. Turns that are being sampled when a batch is complete are sampled to their end. An
        error ends all groups in play.
        """
        self._sampler = sampler
        self._sampling.set()
        try:
            played = await (self._fill(plan) if training else play_groups(plan, training=False))
            self._pause()
            while self._turns:
                await asyncio.wait(self._turns)
        except BaseException:
            await self._end()
            raise
        finally:
            self._pause()
        return played

    def _pause(self) -> None:
        self._sampler = None
        self._sampling.clear()

    async def _fill(self, plan: Sequence[PlannedGroup]) -> list[PlayedGroup]:
        """Begin the planned groups; wait for as many complete groups as there are places, and for those overdue."""
        self._batch += 1
        for planned in plan:
            work = asyncio.create_task(planned.play(training=True))
            self._groups.append(_Group(planned, work, self._batch))
        places = [planned.first for planned in plan if planned.first is not None]
        while running := self._awaited(len(places)):
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        taken = [group for group in self._groups if group.work.done()][: len(places)]  # the oldest first
        self._groups = [group for group in self._groups if group not in taken]
        own = {group.planned.first for group in taken if group.begun == self._batch}
        free = iter(place for place in places if place not in own)
        played: list[PlayedGroup] = []
        for group in taken:
            planned = replace(group.planned, staleness=self._batch - group.begun)
            if planned.staleness or planned.first is None:
                planned = replace(planned, first=next(free))
            played.append(PlayedGroup(planned, group.work.result()))
        return sorted(played, key=lambda one: one.planned.place)

    def _awaited(self, num_places: int) -> list[asyncio.Task[list[TrajectoryGroup]]]:
        """The groups that run, while the batch is not complete. Raises the error of one that could not be played."""
        complete = [group.work.result() for group in self._groups if group.work.done()]
        running = [group for group in self._groups if not group.work.done()]
        overdue = any(self._batch - group.begun >= self._max_staleness for group in running)
        return [group.work for group in running] if overdue or len(complete) < num_places else []

    def close(self) -> None:
        """End the groups in play, which closes their sessions. They are not trained on."""
        if not self._groups or not self._portal.usable:
            return
        tasks = ", ".join(str(group.planned.task) for group in self._groups)
        log.info("training ended with groups in play, which are not trained on: %s", tasks)
        self._portal.run(self._end())

    async def _end(self) -> None:
        groups, self._groups = self._groups, []
        for group in groups:
            group.work.cancel()
        await asyncio.gather(*(group.work for group in groups), return_exceptions=True)
