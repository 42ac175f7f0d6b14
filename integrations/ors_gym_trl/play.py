"""Plays a batch of groups with the trained model; independent of how a trainer asks for it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ors_gym.client.portal import Portal
from ors_gym.rollouts.exchange import run_all
from ors_gym.trajectory import Failure, TaskRef, Trajectory, TrajectoryGroup
from ors_gym_trl.environment import OpenSource
from ors_gym_trl.policy import TokenPolicy
from ors_gym_trl.sampling.sampler import Sampler
from ors_gym_trl.tokens.record import TokenRecord

__all__ = ["PlannedGroup", "PlayedBatch", "PlayedEpisode", "PlayedGroup", "play_batch", "play_groups"]

UNSEEN_IMAGE = "unseen_image"
"""The kind of failure of an episode that ended because the model cannot see its images."""


@dataclass(frozen=True, slots=True)
class PlannedGroup:
    """A group to play, or the part of one that this process plays."""

    opened: OpenSource
    task: TaskRef
    policy: TokenPolicy
    seed: int
    size: int = 0
    first: int | None = None
    """The place of its first episode in the batch of all processes; None for a group that is given one later."""
    staleness: int = 0
    """The number of batches ago that it began."""

    @property
    def place(self) -> int:
        """``first`` of a group that has its place."""
        assert self.first is not None
        return self.first

    async def play(self, *, training: bool) -> list[TrajectoryGroup]:
        """Play it; the last group returned counts, and any before it were replaced by it."""
        return await self.opened.play(self.task, self.size, self.policy, seed=self.seed, training=training)


@dataclass(frozen=True, slots=True)
class PlayedGroup:
    """A group that was played in a place of the batch."""

    planned: PlannedGroup
    attempts: Sequence[TrajectoryGroup]
    """The last one counts; those before it were replaced by it."""


@dataclass(frozen=True, slots=True)
class PlayedEpisode:
    """An episode as the trainer takes it."""

    trajectory: Trajectory
    row: TokenRecord
    value: float | None
    """Its return, None where it must not be scored."""
    score: float | None
    source: str
    """The name of its source."""
    staleness: int
    """The number of batches ago that its group began."""

    @property
    def scored(self) -> bool:
        """Whether it counts: it has a return, or a score."""
        return self.value is not None or self.score is not None


@dataclass(frozen=True, slots=True)
class PlayedBatch:
    """The played groups, and lists with one entry per episode."""

    plan: tuple[PlannedGroup, ...]
    groups: tuple[TrajectoryGroup, ...]
    replaced_groups: tuple[TrajectoryGroup, ...]
    returns: tuple[float | None, ...]
    scores: tuple[float | None, ...]
    records: tuple[TokenRecord | None, ...]
    """The tokens of each episode; None for one without a turn of the model."""

    @property
    def sampled_tokens(self) -> int:
        """Tokens sampled from the model."""
        return sum(sum(record.mask) for record in self.records if record is not None)

    def episodes(self, end_of_sequence: int) -> dict[int, PlayedEpisode]:
        """The episodes by their places in the batch of all processes.

        A row is never empty, and ends with a sampled token. An episode that was broken, and every one of a dropped
        group, is its prompt and one masked token.
        """
        places = (
            (planned, place) for planned in self.plan for place in range(planned.place, planned.place + planned.size)
        )
        members = ((member, member.failed or group.dropped) for group in self.groups for member in group.members)
        rows = zip(places, members, self.records, self.returns, self.scores, strict=True)
        return {
            place: PlayedEpisode(
                member,
                _row(record, left_out, end_of_sequence),
                value,
                score,
                planned.opened.source.name,
                planned.staleness,
            )
            for (planned, place), (member, left_out), record, value, score in rows
        }


def _row(record: TokenRecord | None, left_out: bool, end_of_sequence: int) -> TokenRecord:
    record = record or TokenRecord([end_of_sequence])
    if left_out or not any(record.mask):
        return record.left_out(end_of_sequence)
    record.drop_trailing_environment()
    return record


def play_batch(
    portal: Portal, sampler: Sampler, play: Callable[[], Coroutine[Any, Any, Sequence[PlayedGroup]]]
) -> PlayedBatch:
    """Play on the portal's event loop while the calling thread, the trainer's, samples."""
    with sampler.open():
        playing = portal.run(_start(play, sampler))
        try:
            sampler.serve()
            played = playing.result()
        finally:
            # Ctrl-C, or an error of the model: cancel the episodes, which close their sessions.
            portal.run(_cancel(playing))
    groups = [_without_unseen(one.planned, one.attempts[-1]) for one in played]
    each = [(one.planned, group, member) for one, group in zip(played, groups, strict=True) for member in group.members]
    return PlayedBatch(
        plan=tuple(one.planned for one in played),
        groups=tuple(groups),
        replaced_groups=tuple(group for one in played for group in one.attempts[:-1]),
        returns=tuple(planned.opened.source.worth(group, member) for planned, group, member in each),
        scores=tuple(itertools.chain.from_iterable(group.scores or (None,) * len(group.members) for group in groups)),
        records=tuple(planned.policy.records.get(member.episode_id) for planned, _, member in each),
    )


async def play_groups(plan: Sequence[PlannedGroup], *, training: bool) -> list[PlayedGroup]:
    """Play groups at once, each to its end."""
    played = await run_all(planned.play(training=training) for planned in plan)
    return [PlayedGroup(planned, attempts) for planned, attempts in zip(plan, played, strict=True)]


async def _start(
    play: Callable[[], Coroutine[Any, Any, Sequence[PlayedGroup]]], sampler: Sampler
) -> asyncio.Task[Sequence[PlayedGroup]]:
    playing = asyncio.create_task(play())
    playing.add_done_callback(lambda _: sampler.stop())
    return playing


async def _cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its clean-up."""
    if task.cancel():
        await asyncio.wait([task])


def _without_unseen(planned: PlannedGroup, group: TrajectoryGroup) -> TrajectoryGroup:
    """The group, dropped where its episodes ended because the model cannot see their images."""
    unseen = [member for member in group.members if member.episode_id in planned.policy.skipped]
    if not unseen:
        return group
    failure = Failure(UNSEEN_IMAGE, f"{group.task} shows an image, and the model is trained on text")
    return replace(group, dropped=True, failures=(*group.failures, *[failure] * len(unseen)))
