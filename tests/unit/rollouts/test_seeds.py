"""Random numbers that belong to an episode and a turn: the same in every run, in whatever order episodes go on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ors_gym import FailurePolicy, Policy, StopReason, TaskRef, Trajectory, Turn, run_groups
from ors_gym.policies.policy import RandomPolicy
from ors_gym.rollouts.seeds import derive_seed
from ors_gym.trajectory import Failure
from ors_gym.types import ToolList, ToolSpec

TASKS = [TaskRef("env", "train", index) for index in (0, 1, 2, 0)]
GUESS = ToolList((ToolSpec("guess", input_schema={"type": "object", "properties": {"number": {"type": "integer"}}}),))


class Shuffled:
    """Plays three turns an episode, and lets episodes go on in its own order; some first attempts fail."""

    def __init__(self, order: int) -> None:
        self._order = random.Random(order)
        self.drawn: list[tuple[str, int, int | None]] = []

    async def run_episode(
        self, task: TaskRef, *, policy: Policy | None = None, attempt: int = 0, seed: int | None = None
    ) -> Trajectory:
        said: list[Any] = []
        for number in range(3):
            for _ in range(self._order.randrange(5)):
                await asyncio.sleep(0)
            turn = Turn("e", task, (), GUESS, number, seed=derive_seed(seed, number))
            said.append((await policy.act(turn)).tool_calls[0].input)
            self.drawn.append((str(task), number, turn.seed))
        if attempt == 0 and task.index == 1:
            return Trajectory("e", task, StopReason.FAILED, failure=Failure("lost", "lost"))
        return Trajectory(str(said), task, StopReason.FINISHED)

    async def score_group(self, task: TaskRef, candidates: Sequence[Any]) -> Sequence[Any]:
        raise NotImplementedError


def played(order: int, seed: int | None = 7) -> tuple[dict[str, list[str]], list[Any]]:
    """What the members of each task's groups did, and the seeds of their turns."""

    async def play() -> tuple[dict[str, list[str]], list[Any]]:
        host = Shuffled(order)
        groups = run_groups(
            host, TASKS, 4, policy=RandomPolicy(3), seed=seed, failures=FailurePolicy(retry_delay_seconds=0)
        )
        ended: dict[str, list[str]] = {}
        async for group in groups:
            ended.setdefault(str(group.task), []).append(str([member.episode_id for member in group.members]))
        return {task: sorted(members) for task, members in ended.items()}, host.drawn

    return asyncio.run(play())


@settings(max_examples=20, deadline=None)
@given(order=st.integers(0, 1000))
def test_the_same_seed_plays_the_same_groups_in_any_order_of_episodes(order: int):
    assert played(order)[0] == played(0)[0]


def test_each_episode_attempt_and_turn_has_its_own_seed():
    _, drawn = played(1)
    seeds = [seed for _, _, seed in drawn]
    assert len(set(seeds)) == len(seeds) == 3 * (4 * len(TASKS) + 4)
    assert played(1, seed=8)[0] != played(1)[0]


def test_a_run_without_a_seed_has_none_for_its_turns():
    assert {seed for _, _, seed in played(1, seed=None)[1]} == {None}
    assert derive_seed(None, 1) is None
