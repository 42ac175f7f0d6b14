"""Episodes on a real Ray, started here."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import ray
from ray import cloudpickle
from ray.exceptions import RayActorError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ors_gym import (
    FailurePolicy,
    Reply,
    RolloutLimits,
    ScriptedPolicy,
    StopReason,
    TaskRef,
    ToolCall,
    TrajectoryGroup,
    Turn,
    run_group,
)
from ors_gym.errors import NotFoundError
from ors_gym_ray import RolloutPool
from tests.support.environments import Mirror
from tests.support.ors_servers import RunningServer
from tests.support.processes import wait_until

pytestmark = pytest.mark.usefixtures("driver")


ADD = ToolCall("add", {"amount": 1})
THREE = TaskRef("counter", "train", 2)
AT_ONCE = FailurePolicy(retries=3, retry_delay_seconds=0)


async def collect(pool: RolloutPool, *arguments: object, **options: object) -> list:
    return [group async for group in pool.run_groups(*arguments, **options)]


def test_groups_come_back_complete_with_a_policy_that_lives_with_the_pool(
    pool: RolloutPool, counter_server: RunningServer, run: Callable
):
    groups = run(collect(pool, range(5), 4, policy=ScriptedPolicy([ADD] * 5)))

    assert sorted(group.task.index for group in groups) == [0, 1, 2, 3, 4]
    for group in groups:
        assert len(group.members) == 4
        assert [member.stop_reason for member in group.members] == [StopReason.FINISHED] * 4
        assert [member.rewards[-1] for member in group.members] == [1.0] * 4
    wait_until(lambda: not counter_server.live_sessions)


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
    wait_until(lambda: not counter_server.live_sessions)


def test_actors_that_cannot_start_are_an_error_at_once(
    start_pool: Callable, run: Callable, monkeypatch: pytest.MonkeyPatch
):
    module = types.ModuleType("only_here")  # a module that the actors cannot import
    exec("class Policy:\n    async def act(self, turn): ...", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    pool = start_pool(policy=module.Policy(), policy_placement="actors")

    with pytest.raises(RayActorError, match="No module named"):
        run(run_group(pool, THREE, 2, failures=AT_ONCE))


def test_episodes_of_an_actor_that_dies_are_played_again_on_another_and_its_sessions_deleted(
    start_pool: Callable, counter_server: RunningServer, run: Callable
):
    class KillsTheFirstActor:
        """Kills it once all six episodes have begun, so that their sessions are known; all go on when it is dead."""

        def __init__(self) -> None:
            self.asked = 0
            self.all_here = asyncio.Event()

        async def act(self, turn: Turn) -> Reply:
            self.asked += 1
            if self.asked == 6:
                victim = pool._workers[0]
                ray.kill(victim.actor)
                try:
                    while victim.death is None:
                        await pool._changed.wait()
                finally:  # it may be this episode's actor, and then nobody waits for the answer
                    self.all_here.set()
            await self.all_here.wait()
            return Reply(tool_calls=(ADD,))

    async def conversation() -> TrajectoryGroup:
        await pool.ready()
        return await run_group(pool, THREE, 6, failures=AT_ONCE)

    pool = start_pool(policy=KillsTheFirstActor())

    group = run(conversation())

    assert not group.dropped
    assert [member.stop_reason for member in group.members] == [StopReason.FINISHED] * 6
    assert {failure.kind for failure in group.failures} == {"actor_died"}
    assert len(pool._workers) == 2
    wait_until(lambda: not counter_server.live_sessions)


def test_a_pool_whose_actors_all_died_raises_instead_of_waiting(start_pool: Callable, run: Callable):
    class KillsWhoeverPlays:  # one episode, so that its session is known
        async def act(self, turn: Turn) -> Reply:
            for worker in list(pool._workers):
                ray.kill(worker.actor)
            await asyncio.Event().wait()
            raise AssertionError("the episode ended with its actor")

    pool = start_pool(num_actors=1, policy=KillsWhoeverPlays(), max_actor_restarts=1)

    with pytest.raises(RuntimeError, match="max_actor_restarts"):
        run(run_group(pool, THREE, 1, failures=AT_ONCE))


def test_a_pool_that_may_replace_no_actor_is_ready_with_those_it_has(start_pool: Callable, run: Callable):
    async def conversation() -> None:
        await pool.ready()
        ray.kill(pool._workers[0].actor)
        while pool.num_living_actors > 1:
            await pool._changed.wait()
        await pool.ready()

    pool = start_pool(max_actor_restarts=0)

    run(conversation())

    assert pool.num_living_actors == 1


def test_an_empty_group_is_refused(pool: RolloutPool, run: Callable):
    with pytest.raises(ValueError, match="group_size must be at least 1"):
        run(collect(pool, [0], 0))


def test_a_closed_pool_refuses_use(start_pool: Callable, run: Callable):
    pool = start_pool(policy=ScriptedPolicy([ADD]))
    pool.close()

    with pytest.raises(RuntimeError, match="closed"):
        run(pool.run_episode(THREE))


def is_dead(actor: Any) -> bool:
    """Whether Ray says so; it kills in the background."""
    try:
        ray.get(actor.__ray_ready__.remote())
    except RayActorError:
        return True
    return False


def test_a_forgotten_pool_is_released_with_a_warning(counter_server: RunningServer, run: Callable):
    async def forget() -> list[object]:
        pool = RolloutPool(counter_server.url, env_name="counter", num_actors=1)
        await collect(pool, [2], 1, policy=ScriptedPolicy([ADD] * 5))
        actors = [worker.actor for worker in pool._workers]
        del pool
        gc.collect()
        return actors  # while this event loop, a notebook's, goes on

    with pytest.warns(ResourceWarning, match="unclosed RolloutPool of 1 actors"):
        [actor] = run(forget())
    for thread in threading.enumerate():
        if thread.name == "ors-gym closing":
            thread.join()
    wait_until(lambda: is_dead(actor))
    wait_until(lambda: not counter_server.live_sessions)


def test_actors_have_names_and_go_where_and_with_what_they_are_asked_to(start_pool: Callable, run: Callable):
    group = placement_group([{"CPU": 0.25}] * 2)
    options = {
        "scheduling_strategy": PlacementGroupSchedulingStrategy(group),
        "runtime_env": {"env_vars": {"ORS_TEST_FLAVOUR": "vanilla"}},
    }
    pool = start_pool(name="probe", actor_options=options)
    start_pool(name="probe", num_actors=1)  # another rank's, or one of a rank that is started again
    run(pool.ready())

    def inside(actor: Any) -> tuple[str, str | None, bytes]:
        placed = ray.util.get_current_placement_group()
        return repr(actor), os.environ.get("ORS_TEST_FLAVOUR"), placed.id.binary()

    told = ray.get([worker.actor.__ray_call__.remote(inside) for worker in pool._workers])

    named = {name.rpartition("-")[0] for name in ray.util.list_named_actors()}
    assert {"probe-0", "probe-1"} <= named
    assert told == [(f"rollouts probe-{number}", "vanilla", group.id.binary()) for number in (0, 1)]
    remove_placement_group(group)


def test_rays_metrics_count_the_episodes_of_a_pool(pool: RolloutPool, run: Callable):
    run(collect(pool, [2], 1, policy=ScriptedPolicy([ADD] * 5)))

    def metrics() -> str:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        urls = (f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in nodes)
        return "".join(httpx.get(url, timeout=60).text for url in urls)

    def are_counted() -> bool:
        lines = [line for line in metrics().splitlines() if f'pool="{pool.name}"' in line]
        return any("ors_gym_episodes_ended" in line and 'stop_reason="finished"' in line for line in lines) and any(
            "ors_gym_tool_call_seconds_bucket" in line for line in lines
        )

    wait_until(are_counted)


def test_a_pool_that_is_to_be_sent_elsewhere_says_that_it_stays(pool: RolloutPool):
    with pytest.raises(TypeError, match="make one in the task, actor or trainer rank"):
        cloudpickle.dumps(pool)


def test_a_policy_that_cannot_be_copied_to_the_actors_is_refused(counter_server: RunningServer):
    class Locked:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        async def act(self, turn: Turn) -> Reply:
            return Reply(text="enough")

    with pytest.raises(ValueError, match=r"this Locked cannot be pickled: .*lock.*leave it with the pool"):
        RolloutPool(counter_server.url, policy=Locked(), policy_placement="actors")


def test_a_task_index_needs_an_environment(start_pool: Callable, run: Callable):
    pool = start_pool(env_name=None, policy=ScriptedPolicy([ADD]))

    with pytest.raises(ValueError, match="env_name"):
        run(collect(pool, [0], 1))


def test_an_endless_stream_of_tasks_waits_for_a_slow_consumer(
    start_pool: Callable, counter_server: RunningServer, run: Callable
):
    drawn = []

    def endless() -> Iterator[int]:
        while True:
            drawn.append(len(drawn) % 5)
            yield drawn[-1]

    async def conversation() -> None:
        pool = start_pool(episodes_per_actor=4, policy=ScriptedPolicy([ADD] * 5))
        groups = pool.run_groups(endless(), 2)
        async for group in groups:
            taken.append(group)
            assert len(drawn) <= len(taken) + 5  # as many as fill two actors of four places, and one more
            if len(taken) == 20:
                break
        await groups.aclose()
        await asyncio.to_thread(wait_until, lambda: not counter_server.live_sessions)

    taken: list = []
    run(conversation())

    assert len(taken) == 20
    assert len(drawn) <= 25


def test_groups_are_scored_by_their_environment_from_an_actor(start_server: Callable, run: Callable):
    server = start_server(Mirror)
    task = TaskRef("mirror", "train", 0)
    with RolloutPool(server.url, policy=ScriptedPolicy(["an answer"])) as pool:
        group = run(run_group(pool, task, 2, score_group=True))

    assert group.scores == (len("an answer"), len("an answer"))
    wait_until(lambda: not server.live_sessions)


def test_an_environment_without_group_scores_has_a_clear_error(pool: RolloutPool, run: Callable):
    with pytest.raises(NotFoundError, match="does not score"):
        run(run_group(pool, THREE, 2, policy=ScriptedPolicy([ADD] * 5), score_group=True))


def test_a_policy_sees_the_whole_conversation_though_only_what_is_new_travels(pool: RolloutPool, run: Callable):
    turns: list[Turn] = []

    class Watches:
        async def act(self, turn: Turn) -> Reply:
            turns.append(turn)
            return Reply(tool_calls=(ADD,))

    [group] = run(collect(pool, [2], 1, policy=Watches()))

    whole = group.members[0].messages
    assert [turn.messages for turn in turns] == [whole[:1], whole[:3], whole[:5]]
    assert [set(turn.tools.names) for turn in turns] == [{"add", "look", "echo", "crash"}] * 3


def test_a_pool_is_used_from_one_event_loop_after_another(pool: RolloutPool, run: Callable):
    first, second = (run(run_group(pool, THREE, 4, policy=ScriptedPolicy([ADD] * 5))) for _ in range(2))

    assert [member.num_turns for member in first.members + second.members] == [3] * 8


def test_a_pool_in_use_refuses_a_second_event_loop(pool: RolloutPool, run: Callable):
    async def conversation() -> None:
        await pool.ready()
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, pool.ready())

    run(conversation())


def test_an_error_that_cannot_be_pickled_is_reported_as_text(start_pool: Callable, run: Callable):
    class Breaks:
        async def act(self, turn: Turn) -> Reply:
            import threading

            class HoldsALockError(Exception):
                lock = None

            error = HoldsALockError("the policy broke")
            error.lock = threading.Lock()
            raise error

    pool = start_pool(policy=Breaks(), policy_placement="actors")

    with pytest.raises(RuntimeError, match="HoldsALockError: the policy broke"):
        run(run_group(pool, THREE, 1))


def test_a_pool_for_another_cluster_than_this_process_is_connected_to_is_refused(counter_server: RunningServer):
    with pytest.raises(ValueError, match="is connected to the Ray cluster at"):
        RolloutPool(counter_server.url, address="127.0.0.1:1")
