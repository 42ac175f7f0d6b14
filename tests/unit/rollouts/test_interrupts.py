"""A run that is cancelled while it waits says what that cost."""

from __future__ import annotations

import asyncio

import pytest

from ors_gym.rollouts.groups import run_groups
from ors_gym.trajectory import StopReason, TaskRef, Trajectory


class Host:
    """Plays tasks 0 and 1 at once, and the others never to an end."""

    def __init__(self) -> None:
        self.under_way = 0
        self.ended = 0
        self.all_begun = asyncio.Event()

    async def run_episode(self, task, *, policy=None, attempt=0, seed=None) -> Trajectory:
        self.under_way += 1
        if self.under_way == 4:
            self.all_begun.set()
        if task.index > 1:
            try:
                await asyncio.Event().wait()
            finally:
                self.ended += 1
        return Trajectory("e", task, StopReason.POLICY_STOPPED, (), ())

    async def score_group(self, task, candidates):
        raise NotImplementedError


def test_a_cancelled_run_ends_its_episodes_and_tells_how_many_groups_are_lost(caplog):
    async def conversation() -> None:
        host = Host()
        groups = run_groups(host, [TaskRef("e", "train", index) for index in range(4)], 1)
        handed_out = [await anext(groups), await anext(groups)]
        assert sorted(group.task.index for group in handed_out) == [0, 1]
        waiting = asyncio.create_task(anext(groups))
        await host.all_begun.wait()
        await asyncio.sleep(0)  # the task waits
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert host.ended == 2

    asyncio.run(asyncio.wait_for(conversation(), 60))
    assert "run_groups was cancelled: 2 groups are not handed out, 0 of them complete" in caplog.text
