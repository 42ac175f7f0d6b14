"""A run in numbers: what is counted, and what Prometheus reads of it over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import prometheus_client
import pytest

from ors_gym import (
    EpisodeRunner,
    FailurePolicy,
    ORSClient,
    Reply,
    ScriptedPolicy,
    TaskRef,
    ToolCall,
    Turn,
    run_group,
    run_groups,
)
from ors_gym.reporting.metrics import PrometheusCollector, RolloutMetrics
from tests.support.environments import Mirror
from tests.support.ors_servers import RunningServer

ADD, CRASH = ToolCall("add", {"amount": 1}), ToolCall("crash")
TASKS = [TaskRef("counter", "train", index) for index in range(5)]


class BreaksTheFirst:
    """Crashes in the first task, and counts in all others; every message is two tokens."""

    async def act(self, turn: Turn) -> Reply:
        return Reply(tool_calls=(CRASH if turn.task.index == 0 else ADD,), num_tokens=2)


async def play(server: RunningServer, metrics: RolloutMetrics, policy: object, **failures: object) -> None:
    async with ORSClient(server.url) as client:
        host = metrics.watch(EpisodeRunner(client, policy))
        options = {"failures": FailurePolicy(retry_delay_seconds=0, **failures), "num_groups": 2}
        async for group in run_groups(host, TASKS, 2, **options):
            metrics.count_group(group)


def test_every_episode_is_counted_and_every_group_once(counter_server: RunningServer, run: Callable):
    metrics = RolloutMetrics()
    run(play(counter_server, metrics, BreaksTheFirst(), retries=1, incomplete="refill"))

    numbers = metrics.as_dict()
    seconds = numbers.pop("episode_seconds"), numbers.pop("tool_seconds")
    assert seconds[0] > seconds[1] > 0
    assert numbers == {
        "running": 0,
        "episodes": 8,
        "cancelled": 0,
        "refills": 1,
        "turns": 14,
        "tokens": 28,
        "mean_return": 1.0,
        "stop_reason/failed": 4,
        "stop_reason/finished": 4,
        "failure/tool_failed": 4,
        "tool_call/add": 10,
        "groups/kept": 2,
        "groups/dropped": 1,
    }


def test_what_runs_is_counted_while_it_runs_and_what_is_cancelled_is_said_to_be(
    counter_server: RunningServer, run: Callable
):
    metrics = RolloutMetrics()

    class OneWaits:
        """The first episode to be asked waits for ever."""

        most = 0
        waiting = ""

        async def act(self, turn: Turn) -> Reply:
            self.most = max(self.most, metrics.running)
            self.waiting = self.waiting or turn.episode_id
            if turn.episode_id == self.waiting:
                await asyncio.Event().wait()
            return Reply(tool_calls=(ADD,))

    policy = OneWaits()

    async def group() -> None:
        async with ORSClient(counter_server.url) as client:
            host = metrics.watch(EpisodeRunner(client, policy))
            await run_group(host, TASKS[1], 3, failures=FailurePolicy(redundancy=1))

    run(group())

    assert policy.most == 4
    assert (metrics.running, metrics.cancelled, metrics.episodes) == (0, 1, 3)


def test_a_fault_of_the_policy_leaves_nothing_running(counter_server: RunningServer, run: Callable):
    class Broken:
        async def act(self, turn: Turn) -> Reply:
            raise ZeroDivisionError

    metrics = RolloutMetrics()
    with pytest.raises(ZeroDivisionError):
        run(play(counter_server, metrics, Broken()))
    assert metrics.running == 0


def test_scores_may_be_asked_for_through_a_watched_host(start_server: Callable, run: Callable):
    async def group():
        async with ORSClient(start_server(Mirror).url) as client:
            host = RolloutMetrics().watch(EpisodeRunner(client, ScriptedPolicy(["four"])))
            return await run_group(host, TaskRef("mirror", "train", 0), 2, score_group=True)

    assert run(group()).scores == (4.0, 4.0)


def test_prometheus_reads_the_numbers_over_http(counter_server: RunningServer, run: Callable):
    metrics = RolloutMetrics()
    run(play(counter_server, metrics, BreaksTheFirst(), retries=0))
    registry = prometheus_client.CollectorRegistry()
    registry.register(PrometheusCollector(metrics))
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    try:
        text = httpx.get(f"http://127.0.0.1:{server.server_port}/metrics").text
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

    lines = text.splitlines()
    for expected in (
        "ors_gym_episodes_running 0.0",
        'ors_gym_episodes_total{stop_reason="failed"} 2.0',
        'ors_gym_failures_total{kind="tool_failed"} 2.0',
        'ors_gym_tool_calls_total{tool="add"} 4.0',
        'ors_gym_groups_total{outcome="dropped"} 1.0',
        "ors_gym_tokens_total 12.0",
        "ors_gym_episode_seconds_count 4.0",
        "ors_gym_episode_return_sum 2.0",
    ):
        assert expected in lines
