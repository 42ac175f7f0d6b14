"""Pools that are closed, and episodes that are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import ray

from ors_gym import (
    Reply,
    StopReason,
    TaskRef,
    ToolCall,
    Turn,
    run_group,
)
from ors_gym_ray import RolloutPool
from ors_gym_ray.rollouts.events import Job
from tests.support.ors_servers import RunningServer
from tests.support.processes import wait_until

ADD = ToolCall("add", {"amount": 1})
THREE = TaskRef("counter", "train", 2)
pytestmark = pytest.mark.usefixtures("driver")


def test_closing_a_pool_ends_what_is_awaited_of_it(start_pool: Callable, counter_server: RunningServer, run: Callable):
    class ClosesThePool:
        asked = 0

        async def act(self, turn: Turn) -> Reply:
            self.asked += 1
            if self.asked == 3:
                pool.close()
            await asyncio.Event().wait()
            raise AssertionError("no server answers")

    pool = start_pool(policy=ClosesThePool())

    with pytest.raises(RuntimeError, match="closed"):
        run(run_group(pool, THREE, 3))

    wait_until(lambda: not counter_server.live_sessions)


def test_cancelled_episodes_close_their_sessions_and_stop_their_policy(
    pool: RolloutPool, counter_server: RunningServer, run: Callable
):
    cancelled = []

    class OneAnswers:
        asked = 0

        async def act(self, turn: Turn) -> Reply:
            self.asked += 1
            if self.asked == 3:
                return Reply(text="enough")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(turn.episode_id)
                raise
            raise AssertionError("no server answers")

    async def conversation() -> None:
        policy = OneAnswers()
        playing = [asyncio.create_task(pool.run_episode(THREE, policy=policy)) for _ in range(3)]
        ended, waiting = await asyncio.wait(playing, return_when=asyncio.FIRST_COMPLETED)
        assert ended.pop().result().stop_reason is StopReason.POLICY_STOPPED
        for episode in waiting:
            episode.cancel()
        await asyncio.wait(waiting)
        await asyncio.to_thread(wait_until, lambda: not counter_server.live_sessions)

    run(conversation())

    assert len(cancelled) == 2


def test_an_abandoned_episode_ends_on_its_actor(pool: RolloutPool, counter_server: RunningServer, run: Callable):
    async def conversation() -> None:
        await pool.ready()
        actor = pool._workers[0].actor
        jobs = [Job(f"cancelled {number}", THREE, 0, None, ask_driver=True) for number in range(20)]
        calls = [call for job in jobs for call in (actor.submit.remote([job]), actor.cancel.remote([job.episode_id]))]
        # A large task takes longer to an actor than its cancellation: then this is all that arrives in its order.
        await asyncio.gather(*calls, actor.submit.remote([Job("overtaken", THREE, 0, None, ask_driver=True)]))

        def is_idle() -> bool:
            return not ray.get(actor.__ray_call__.remote(lambda actor: len(actor._episodes)))

        await asyncio.to_thread(wait_until, is_idle)

    run(conversation())

    wait_until(lambda: not counter_server.live_sessions)


def test_an_interrupted_wait_for_a_group_loses_no_group_and_leaves_no_session(
    pool: RolloutPool, counter_server: RunningServer, run: Callable
):
    class HeldUp:
        """The second of two tasks waits."""

        def __init__(self) -> None:
            self.asked, self.go_on = asyncio.Event(), asyncio.Event()

        async def act(self, turn: Turn) -> Reply:
            if turn.task.index == 3:
                self.asked.set()
                await self.go_on.wait()
            return Reply(tool_calls=(ADD,))

    async def conversation() -> None:
        policy = HeldUp()
        groups = pool.run_groups([2, 3], 2, policy=policy)
        first = await anext(groups)
        await policy.asked.wait()
        for interrupt in (asyncio.create_task(anext(groups)), asyncio.create_task(asyncio.wait_for(anext(groups), 0))):
            await asyncio.sleep(0)
            interrupt.cancel()
            with pytest.raises((asyncio.CancelledError, TimeoutError)):
                await interrupt
        policy.go_on.set()
        rest = [group async for group in groups]
        assert [group.task.index for group in (first, *rest)] == [2, 3]
        assert all(not member.failed for group in (first, *rest) for member in group.members)

        endless = pool.run_groups([3], 2, policy=(waiting := HeldUp()))
        taken = asyncio.create_task(anext(endless))
        await waiting.asked.wait()
        await endless.aclose()
        taken.cancel()
        await asyncio.to_thread(wait_until, lambda: not counter_server.live_sessions)

    run(conversation())


def test_a_policy_that_cancels_itself_does_not_hang(pool: RolloutPool, counter_server: RunningServer, run: Callable):
    class GivesUp:
        async def act(self, turn: Turn) -> Reply:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run(pool.run_episode(THREE, policy=GivesUp()))

    wait_until(lambda: not counter_server.live_sessions)
