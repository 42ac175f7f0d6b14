"""A run of groups that is interrupted loses nothing that is complete, and ends what it is told to end."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import aclosing

import pytest

from ors_gym.rollouts.groups import run_groups
from ors_gym.trajectory import StopReason, TaskRef, Trajectory

TASKS = [TaskRef("e", "train", index) for index in range(4)]


class Host:
    """Plays tasks 0 and 1 at once, and the others when they may."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.all_begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.all_cancelled = asyncio.Event()

    async def run_episode(self, task, *, policy=None, attempt=0, seed=None) -> Trajectory:
        self.begun += 1
        if self.begun == 4:
            self.all_begun.set()
        if task.index > 1:
            try:
                await self.may_end.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                if self.cancelled == 2:
                    self.all_cancelled.set()
                raise
        return Trajectory("e", task, StopReason.POLICY_STOPPED, (), ())

    async def score_group(self, task, candidates):
        raise NotImplementedError


def run(work) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def test_a_wait_that_is_cancelled_or_times_out_loses_no_group():
    async def script() -> None:
        host = Host()
        groups = run_groups(host, TASKS, 1)
        taken = [await anext(groups), await anext(groups)]
        waiting = asyncio.create_task(anext(groups))
        await host.all_begun.wait()
        await asyncio.sleep(0)  # the task waits
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await anext(groups)
        host.may_end.set()
        taken += [group async for group in groups]
        assert sorted(group.task.index for group in taken) == [0, 1, 2, 3]
        assert host.begun == 4

    run(script())


def test_closing_a_run_ends_its_episodes_and_logs_what_was_not_taken(caplog):
    async def script() -> None:
        host = Host()
        async with aclosing(run_groups(host, TASKS, 1)) as groups:
            await anext(groups)
            await host.all_begun.wait()
        assert host.cancelled == 2
        assert [group async for group in groups] == []

    run(script())
    assert "1 complete groups were not taken, 2 running ones were cancelled" in caplog.text


def test_a_run_that_is_no_longer_referenced_ends_its_episodes(caplog):
    async def script() -> None:
        host = Host()
        async for _ in run_groups(host, TASKS, 1):
            await host.all_begun.wait()
            break
        gc.collect()
        await host.all_cancelled.wait()

    caplog.set_level(logging.INFO)
    run(script())
    assert "2 running ones were cancelled" in caplog.text
