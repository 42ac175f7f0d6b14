"""Several calls of one message at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from openreward.environments import TextBlock as SDKTextBlock
from openreward.environments import ToolOutput, tool

from ors_gym import (
    EpisodeRunner,
    ORSClient,
    Reply,
    RolloutLimits,
    StopReason,
    TaskRef,
    ToolCall,
    Trajectory,
    Turn,
)
from tests.support.environments import OneTask
from tests.support.ors_servers import RunningServer

THREE = TaskRef("counter", "train", 2)
ADD, LOOK = ToolCall("add", {"amount": 1}), ToolCall("look")


class Gate(OneTask):
    """``meet`` answers when two of its calls are under way; ``leave`` ends the episode, ``burn`` breaks it."""

    asks = "Meet."

    def __init__(self, task_spec={}, secrets={}):  # noqa: B006
        super().__init__(task_spec, secrets)
        self.waiting = asyncio.Barrier(2)
        self.log = []

    @tool(concurrent=True)
    async def meet(self) -> ToolOutput:
        """Wait for another."""
        place = await self.waiting.wait()
        return ToolOutput(blocks=[SDKTextBlock(text=f"met {place}")], reward=1.0)

    @tool(concurrent=True)
    async def leave(self) -> ToolOutput:
        """End the episode, when another has come."""
        await self.waiting.wait()
        return ToolOutput(blocks=[], reward=2.0, finished=True)

    @tool(concurrent=True)
    async def note(self) -> ToolOutput:
        """Note that it was called."""
        return ToolOutput(blocks=[SDKTextBlock(text="noted")])


MEET, LEAVE, NOTE = ToolCall("meet"), ToolCall("leave"), ToolCall("note")


GATE = TaskRef("gate", "train", 0)


class Says:
    def __init__(self, *calls: ToolCall) -> None:
        self.calls = calls

    async def act(self, turn: Turn) -> Reply:
        return Reply(tool_calls=self.calls)


async def play_gate(server: RunningServer, policy: object, parallel: object) -> Trajectory:
    async with ORSClient(server.url) as client:
        limits = RolloutLimits(max_turns=1, max_episode_seconds=20)
        return await EpisodeRunner(client, policy, parallel_tool_calls=parallel, limits=limits).run_episode(GATE)


@pytest.mark.parametrize("parallel", [True, {"meet"}])
def test_calls_of_one_message_run_at_once_where_that_is_allowed(start_server: Callable, run: Callable, parallel):
    trajectory = run(play_gate(start_server(Gate), Says(NOTE, MEET, MEET, NOTE), parallel))

    assert trajectory.stop_reason is StopReason.MAX_TURNS
    assert [transition.action.name for transition in trajectory.transitions] == ["note", "meet", "meet", "note"]
    assert trajectory.rewards == (None, 1.0, 1.0, None)
    results = trajectory.messages[-1].blocks
    calls = trajectory.completion[0].tool_calls
    assert [result.tool_call_id for result in results] == [call.id for call in calls]


def test_calls_concurrent_with_one_that_finishes_count_and_nothing_is_called_after_them(
    start_server: Callable, run: Callable
):
    trajectory = run(play_gate(start_server(Gate), Says(MEET, LEAVE, NOTE), {"meet", "leave"}))

    assert trajectory.stop_reason is StopReason.FINISHED
    assert [transition.action.name for transition in trajectory.transitions] == ["meet", "leave"]
    assert trajectory.transitions[1].reward == 2.0


def test_a_fault_of_one_call_ends_its_neighbours_too_and_fails_the_episode(
    counter_server: RunningServer, run: Callable
):
    async def burst() -> Trajectory:
        async with ORSClient(counter_server.url) as client:
            runner = EpisodeRunner(
                client, Says(LOOK, ToolCall("crash"), ADD), parallel_tool_calls=True, tool_errors="fail"
            )
            return await runner.run_episode(THREE)

    trajectory = run(burst())

    assert trajectory.failure is not None
    assert trajectory.failure.kind == "tool_failed"
    assert not counter_server.live_sessions


def test_one_tools_name_is_not_a_collection_of_names(run: Callable):
    async def make() -> None:
        async with ORSClient("http://127.0.0.1:9") as client:
            EpisodeRunner(client, parallel_tool_calls="look")

    with pytest.raises(ValueError, match="collection"):
        run(make())
