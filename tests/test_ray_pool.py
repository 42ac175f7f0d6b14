"""Episodes on a real Ray, started here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.exceptions import RayActorError

from ors_gym import FailurePolicy, Reply, RolloutLimits, ScriptedPolicy, StopReason, TaskRef, ToolCall, Turn, run_group
from ors_gym_ray import RolloutPool
from tests.ors_servers import RunningServer
from tests.ray_clusters import connected

pytestmark = pytest.mark.slow

ADD = ToolCall("add", {"amount": 1})
THREE = TaskRef("counter", "train", 2)
AT_ONCE = FailurePolicy(retries=3, retry_delay_seconds=0)


@pytest.fixture(scope="module", autouse=True)
def driver(ray_cluster: Cluster) -> Iterator[None]:
    """This process is a driver of the cluster."""
    with connected(ray_cluster):
        yield


@pytest.fixture
def start_pool(counter_server: RunningServer) -> Iterator[Callable[..., RolloutPool]]:
    pools: list[RolloutPool] = []

    def start(**options: object) -> RolloutPool:
        pools.append(RolloutPool(counter_server.url, **{"env_name": "counter", "num_actors": 2, **options}))
        return pools[-1]

    yield start
    for pool in pools:
        pool.close()


async def collect(pool: RolloutPool, *arguments: object, **options: object) -> list:
    return [group async for group in pool.run_groups(*arguments, **options)]


def test_groups_come_back_complete_with_a_policy_that_lives_with_the_pool(
    start_pool: Callable, counter_server: RunningServer, run: Callable
):
    pool = start_pool(policy=ScriptedPolicy([ADD] * 5))

    groups = run(collect(pool, range(5), 4))

    assert sorted(group.task.index for group in groups) == [0, 1, 2, 3, 4]
    for group in groups:
        assert len(group.members) == 4
        assert [member.stop_reason for member in group.members] == [StopReason.FINISHED] * 4
        assert [member.rewards[-1] for member in group.members] == [1.0] * 4
    assert not counter_server.live_sessions


def test_a_policy_may_be_copied_to_the_actors(start_pool: Callable, run: Callable):
    pool = start_pool(policy=ScriptedPolicy([ADD] * 5), policy_placement="actors")

    [group] = run(collect(pool, [2], 3))

    assert [member.num_turns for member in group.members] == [3, 3, 3]


def test_episodes_are_spread_over_the_actors(start_pool: Callable, run: Callable):
    class WhoAsks:
        """Answers only when four episodes wait, so that all are being played at once."""

        def __init__(self) -> None:
            self.waiting = 0
            self.all_here = asyncio.Event()

        async def act(self, turn: Turn) -> Reply:
            self.waiting += 1
            if self.waiting == 4:
                self.all_here.set()
            await self.all_here.wait()
            return Reply(text="enough")

    pool = start_pool(episodes_per_actor=2, policy=WhoAsks())

    [group] = run(collect(pool, [2], 4))

    assert [member.stop_reason for member in group.members] == [StopReason.POLICY_STOPPED] * 4


def test_limits_hold_on_the_actors(start_pool: Callable, run: Callable):
    pool = start_pool(policy=ScriptedPolicy([ToolCall("look")] * 9), limits=RolloutLimits(max_turns=2))

    [group] = run(collect(pool, [2], 2))

    assert [member.stop_reason for member in group.members] == [StopReason.MAX_TURNS] * 2


@pytest.mark.parametrize("placement", ["driver", "actors"])
def test_a_fault_of_the_policy_is_raised_where_the_group_is_awaited(
    start_pool: Callable, counter_server: RunningServer, run: Callable, placement: str
):
    class BreaksAtTheSecondTurn:
        async def act(self, turn: Turn) -> Reply:
            if turn.number == 1:
                raise ZeroDivisionError("the policy broke")
            return Reply(tool_calls=(ADD,))

    pool = start_pool(policy=BreaksAtTheSecondTurn(), policy_placement=placement)

    with pytest.raises(ZeroDivisionError, match="the policy broke"):
        run(collect(pool, [2, 3, 4], 4))

    pool.close()
    assert not counter_server.live_sessions


def test_actors_that_cannot_start_are_an_error_at_once(start_pool: Callable, run: Callable):
    pool = start_pool(policy=OnlyHere([ADD]), policy_placement="actors")

    with pytest.raises(RayActorError, match="No module named"):
        run(run_group(pool, THREE, 2, failures=AT_ONCE))


class OnlyHere(ScriptedPolicy):
    """The actors cannot import this file."""


def test_episodes_of_an_actor_that_dies_are_played_again_on_another_and_its_sessions_deleted(
    start_pool: Callable, counter_server: RunningServer, run: Callable
):
    class KillsTheFirstActor:
        """Kills it once all six episodes have begun, so that their sessions are known."""

        def __init__(self) -> None:
            self.victim = None
            self.asked = 0
            self.all_here = asyncio.Event()

        async def act(self, turn: Turn) -> Reply:
            self.asked += 1
            if self.asked == 6:
                ray.kill(self.victim)
                self.all_here.set()
            await self.all_here.wait()
            return Reply(tool_calls=(ADD,))

    policy = KillsTheFirstActor()
    pool = start_pool(policy=policy)
    policy.victim = pool._workers[0].actor

    group = run(run_group(pool, THREE, 6, failures=AT_ONCE))

    assert not group.dropped
    assert [member.stop_reason for member in group.members] == [StopReason.FINISHED] * 6
    assert {failure.kind for failure in group.failures} == {"actor_died"}
    assert len(pool._workers) == 2
    assert not counter_server.live_sessions


def test_a_pool_whose_actors_all_died_says_so_instead_of_waiting(start_pool: Callable, run: Callable):
    class KillsWhoeverPlays:  # one episode, so that its session is known
        async def act(self, turn: Turn) -> Reply:
            for worker in list(pool._workers):
                ray.kill(worker.actor)
            return Reply(tool_calls=(ADD,))

    pool = start_pool(num_actors=1, policy=KillsWhoeverPlays(), max_actor_restarts=1)

    with pytest.raises(RuntimeError, match="max_actor_restarts"):
        run(run_group(pool, THREE, 1, failures=AT_ONCE))


def test_a_closed_pool_says_so(start_pool: Callable, run: Callable):
    pool = start_pool(policy=ScriptedPolicy([ADD]))
    pool.close()

    with pytest.raises(RuntimeError, match="closed"):
        run(pool.run_episode(THREE))


def test_a_task_index_needs_an_environment(start_pool: Callable, run: Callable):
    pool = start_pool(env_name=None, policy=ScriptedPolicy([ADD]))

    with pytest.raises(ValueError, match="env_name"):
        run(collect(pool, [0], 1))
