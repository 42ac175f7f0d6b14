"""Episodes and groups, played on the reference server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from openreward.environments import Environment, ToolOutput, terminal, tool
from openreward.environments import TextBlock as SDKTextBlock
from openreward.environments.types import Message as SDKMessage
from pydantic import BaseModel

from ors_gym import (
    EpisodeRunner,
    FailurePolicy,
    ORSClient,
    Reply,
    RolloutLimits,
    ScriptedPolicy,
    StopReason,
    TaskRef,
    ToolCall,
    Trajectory,
    TrajectoryGroup,
    Turn,
    run_group,
    run_groups,
)
from ors_gym.types import Message, ReasoningBlock, TextBlock, ToolResultBlock
from tests.support.environments import Counter
from tests.support.ors_servers import RunningServer

THREE = TaskRef("counter", "train", 2)
"""Count to three."""
ADD, LOOK = ToolCall("add", {"amount": 1}), ToolCall("look")
AT_ONCE = FailurePolicy(retry_delay_seconds=0)


async def play(server: RunningServer, policy: object, task: TaskRef = THREE, **limits: object) -> Trajectory:
    async with ORSClient(server.url) as client:
        runner = EpisodeRunner(client, policy, limits=RolloutLimits(**limits))
        return await runner.run_episode(task)


def test_an_episode_ends_when_the_environment_says_finished(counter_server: RunningServer, run: Callable):
    trajectory = run(play(counter_server, ScriptedPolicy([ADD] * 9)))

    assert trajectory.stop_reason is StopReason.FINISHED
    assert trajectory.terminated
    assert not trajectory.truncated
    assert trajectory.num_turns == 3
    assert [len(exchange.transitions) for exchange in trajectory.exchanges] == [1, 1, 1]
    assert not counter_server.live_sessions


def test_a_reward_that_was_not_given_stays_none_and_zero_stays_zero(counter_server: RunningServer, run: Callable):
    trajectory = run(play(counter_server, ScriptedPolicy([ADD, LOOK, ADD, ADD])))

    assert trajectory.rewards == (None, 0.0, None, 1.0)


def test_the_conversation_holds_the_prompt_each_call_and_each_result(counter_server: RunningServer, run: Callable):
    trajectory = run(play(counter_server, ScriptedPolicy([ADD, ADD, ADD])))

    prompt, *turns = trajectory.messages
    assert prompt == Message("user", prompt.blocks)
    assert prompt.text == "Count to 3."
    assert [message.role for message in turns] == ["assistant", "user"] * 3
    call, result = turns[0].tool_calls[0], turns[1].blocks[0]
    assert isinstance(result, ToolResultBlock)
    assert (call.name, result.tool_call_id, result.blocks[0].text) == ("add", call.id, "count 1")


def test_an_episode_is_truncated_at_its_last_turn(counter_server: RunningServer, run: Callable):
    trajectory = run(play(counter_server, ScriptedPolicy([LOOK] * 9), max_turns=2))

    assert trajectory.stop_reason is StopReason.MAX_TURNS
    assert trajectory.truncated
    assert trajectory.num_turns == 2


def test_finishing_in_the_last_turn_is_not_truncation(counter_server: RunningServer, run: Callable):
    trajectory = run(play(counter_server, ScriptedPolicy([ADD] * 3), max_turns=3))

    assert trajectory.stop_reason is StopReason.FINISHED


def test_an_episode_is_truncated_when_its_time_is_over(counter_server: RunningServer, run: Callable):
    class Thinker:
        async def act(self, turn: Turn) -> Reply:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    trajectory = run(play(counter_server, Thinker(), max_episode_seconds=2.0))

    assert trajectory.stop_reason is StopReason.MAX_SECONDS
    assert trajectory.truncated
    assert not counter_server.live_sessions


def test_a_message_that_was_cut_off_truncates_the_episode(counter_server: RunningServer, run: Callable):
    class Chatterbox:
        async def act(self, turn: Turn) -> Reply:
            return Reply(text="well,", truncated=True)

    assert run(play(counter_server, Chatterbox())).stop_reason is StopReason.MAX_TOKENS


def test_a_plain_message_ends_the_episode_where_there_is_no_terminal_tool(counter_server: RunningServer, run: Callable):
    trajectory = run(play(counter_server, ScriptedPolicy(["I give up"])))

    assert trajectory.stop_reason is StopReason.POLICY_STOPPED
    assert trajectory.messages[-1] == Message("assistant", trajectory.messages[-1].blocks)
    assert trajectory.messages[-1].text == "I give up"


class Answer(BaseModel):
    text: str


class Riddle(Environment):
    @classmethod
    def list_splits(cls):
        return ["train"]

    @classmethod
    def list_tasks(cls, split):
        return [{"answer": "42"}]

    def get_prompt(self):
        return [SDKTextBlock(text="What is it?")]

    @terminal
    @tool
    def answer(self, given: Answer) -> ToolOutput:
        """Grade the answer."""
        return ToolOutput(blocks=[], reward=float(given.text == self.task_spec["answer"]), finished=True)


def test_a_plain_message_goes_to_the_terminal_tool_where_there_is_one(start_server: Callable, run: Callable):
    trajectory = run(play(start_server(Riddle), ScriptedPolicy(["42"]), TaskRef("riddle", "train", 0)))

    assert trajectory.stop_reason is StopReason.FINISHED
    assert trajectory.rewards == (1.0,)
    assert trajectory.transitions[0].action == ToolCall("answer", {"text": "42"})


def test_several_calls_in_one_message_run_in_order_and_none_after_finished(
    counter_server: RunningServer, run: Callable
):
    class Burst:
        async def act(self, turn: Turn) -> Reply:
            return Reply(tool_calls=(ADD, LOOK, ADD, ADD, LOOK))

    trajectory = run(play(counter_server, Burst()))

    assert [transition.action.name for transition in trajectory.transitions] == ["add", "look", "add", "add"]
    assert trajectory.num_turns == 1
    assert trajectory.stop_reason is StopReason.FINISHED


def test_the_agents_mistakes_are_observations(counter_server: RunningServer, run: Callable):
    moves = [ToolCall("fly"), ToolCall("add", {"amount": "many"}), ADD, ADD, ADD]

    trajectory = run(play(counter_server, ScriptedPolicy(moves)))

    assert trajectory.stop_reason is StopReason.FINISHED
    assert [transition.output.reason for transition in trajectory.transitions[:2]] == ["not_found", "input_validation"]
    refused = trajectory.messages[2].blocks[0]
    assert isinstance(refused, ToolResultBlock)
    assert refused.is_error
    assert "fly" in refused.blocks[0].text


def test_an_unreadable_call_is_reported_to_the_policy(counter_server: RunningServer, run: Callable):
    class Stutterer:
        async def act(self, turn: Turn) -> Reply:
            return (
                Reply(text="<tool_call>{", error="No tool was called") if not turn.number else Reply(tool_calls=(ADD,))
            )

    trajectory = run(play(counter_server, Stutterer()))

    assert trajectory.stop_reason is StopReason.FINISHED
    assert trajectory.messages[2].text == "No tool was called"


def test_a_failed_episode_has_no_end(counter_server: RunningServer, run: Callable):
    trajectory = run(play(counter_server, ScriptedPolicy([LOOK, *[ToolCall("crash")] * 3])))

    assert trajectory.failed
    assert not trajectory.terminated
    assert not trajectory.truncated
    assert trajectory.failure is not None
    assert trajectory.failure.kind == "tool_failed"
    assert "the counter broke" in trajectory.failure.message
    assert not counter_server.live_sessions


def test_a_fault_of_the_policy_is_raised_and_leaves_no_session(counter_server: RunningServer, run: Callable):
    class Broken:
        async def act(self, turn: Turn) -> Reply:
            raise ZeroDivisionError("the policy broke")

    async def group() -> None:
        async with ORSClient(counter_server.url) as client:
            await run_group(EpisodeRunner(client, Broken()), THREE, 4)

    with pytest.raises(ZeroDivisionError, match="the policy broke"):
        run(group())
    assert not counter_server.live_sessions


class Unlucky:
    """Breaks the first episodes it plays, then plays well."""

    def __init__(self, failures: int) -> None:
        self.left = failures

    async def act(self, turn: Turn) -> Reply:
        if turn.number == 0 and self.left:
            self.left -= 1
            return Reply(tool_calls=(ToolCall("crash"),))
        return Reply(tool_calls=(ADD,))


async def play_group(server: RunningServer, policy: object, size: int, failures: FailurePolicy) -> TrajectoryGroup:
    async with ORSClient(server.url) as client:
        runner = EpisodeRunner(client, policy, tool_errors="fail")
        return await run_group(runner, THREE, size, failures=failures)


def test_a_failed_member_is_played_again_on_a_fresh_session(counter_server: RunningServer, run: Callable):
    group = run(play_group(counter_server, Unlucky(3), 4, FailurePolicy(retries=3, retry_delay_seconds=0)))

    assert not group.dropped
    assert len(group.members) == 4
    assert all(member.stop_reason is StopReason.FINISHED for member in group.members)
    assert [failure.kind for failure in group.failures] == ["tool_failed"] * 3
    assert sum(member.attempt for member in group.members) == 3


def test_a_group_with_too_few_valid_members_is_dropped_and_says_why(counter_server: RunningServer, run: Callable):
    always = Unlucky(1000)

    group = run(play_group(counter_server, always, 3, FailurePolicy(retries=1, retry_delay_seconds=0)))

    assert group.dropped
    assert all(member.failed for member in group.members)
    assert len(group.failures) == 6


def test_a_group_with_enough_valid_members_is_kept_with_its_failures_in_place(
    counter_server: RunningServer, run: Callable
):
    group = run(play_group(counter_server, Unlucky(1), 3, FailurePolicy(retries=0)))

    assert not group.dropped
    assert sorted(member.failed for member in group.members) == [False, False, True]


def test_an_unreachable_server_fails_the_episodes_and_raises_nothing(run: Callable):
    async def unreachable() -> TrajectoryGroup:
        async with ORSClient("http://127.0.0.1:9") as client:
            return await run_group(EpisodeRunner(client, ScriptedPolicy([ADD])), THREE, 2, failures=AT_ONCE)

    group = run(unreachable())

    assert group.dropped
    assert {failure.kind for failure in group.failures} == {"connect"}


def test_groups_of_an_endless_stream_of_tasks_arrive_as_they_complete(counter_server: RunningServer, run: Callable):
    def endless():
        while True:
            yield THREE

    async def first_five() -> list[TrajectoryGroup]:
        groups = []
        async with ORSClient(counter_server.url) as client:
            runner = EpisodeRunner(client, ScriptedPolicy([ADD] * 3))
            stream = run_groups(runner, endless(), 2, max_concurrent_groups=3)
            async for group in stream:
                groups.append(group)
                if len(groups) == 5:
                    break
            await stream.aclose()
        return groups

    groups = run(first_five())

    assert [len(group.members) for group in groups] == [2] * 5
    assert not counter_server.live_sessions


def test_no_more_sessions_are_open_than_the_limit_allows(counter_server: RunningServer, run: Callable):
    most = 0

    class Watcher:
        async def act(self, turn: Turn) -> Reply:
            nonlocal most
            most = max(most, len(counter_server.live_sessions))
            return Reply(tool_calls=(ADD,))

    async def group() -> None:
        async with ORSClient(counter_server.url) as client:
            runner = EpisodeRunner(client, Watcher(), limits=RolloutLimits(max_concurrent_sessions=3))
            await run_group(runner, THREE, 9)

    run(group())

    assert 1 <= most <= 3


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_turns": 0}, "max_turns"),
        ({"max_episode_seconds": -1.0}, "max_episode_seconds"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: dict, words: str):
    with pytest.raises(ValueError, match=words):
        RolloutLimits(**limits)


def test_a_task_is_named_by_split_and_index_or_by_its_object():
    for parts in ({}, {"split": "train"}, {"index": 1}, {"split": "train", "task": {"target": 2}}):
        with pytest.raises(ValueError, match="either"):
            TaskRef("counter", **parts)
    assert Counter.list_tasks("train")[2]["target"] == 3


def test_an_episode_is_truncated_when_its_tokens_are_spent(counter_server: RunningServer, run: Callable):
    left = []

    class Talker:
        async def act(self, turn: Turn) -> Reply:
            left.append(turn.max_tokens)
            return Reply(tool_calls=(LOOK,), num_tokens=4)

    trajectory = run(play(counter_server, Talker(), max_tokens=10))

    assert trajectory.stop_reason is StopReason.MAX_TOKENS
    assert left == [10, 6, 2]
    assert (trajectory.num_turns, trajectory.num_tokens) == (3, 12)


def test_finishing_with_the_last_tokens_is_not_truncation(counter_server: RunningServer, run: Callable):
    class Talker:
        async def act(self, turn: Turn) -> Reply:
            return Reply(tool_calls=(ADD,), num_tokens=4)

    assert run(play(counter_server, Talker(), max_tokens=12)).stop_reason is StopReason.FINISHED


def test_a_policy_that_counts_no_tokens_is_not_limited_by_them(counter_server: RunningServer, run: Callable):
    trajectory = run(play(counter_server, ScriptedPolicy([ADD] * 3), max_tokens=1))

    assert trajectory.stop_reason is StopReason.FINISHED
    assert trajectory.num_tokens is None


def test_reasoning_is_kept_and_is_not_part_of_the_message(start_server: Callable, run: Callable):
    class Thinker:
        async def act(self, turn: Turn) -> Reply:
            return Reply(text="42", reasoning="six times seven")

    trajectory = run(play(start_server(Riddle), Thinker(), TaskRef("riddle", "train", 0)))

    assert trajectory.rewards == (1.0,)
    assert trajectory.completion[0].blocks == (ReasoningBlock("six times seven"), TextBlock("42"))


def test_an_unreadable_message_has_a_one_word_reason_and_a_sentence(counter_server: RunningServer, run: Callable):
    class Stutterer:
        async def act(self, turn: Turn) -> Reply:
            return Reply(text="{", error="No tool was called", reason="invalid_json")

    trajectory = run(play(counter_server, Stutterer(), max_turns=1))

    assert trajectory.messages[-1].detail == {"reason": "invalid_json"}


def test_the_completion_begins_after_the_assistants_part_of_the_prompt(start_server: Callable, run: Callable):
    class Resumed(Riddle):
        def get_messages(self):
            said = [("user", "What is it?"), ("assistant", "Let me think."), ("user", "Well?")]
            return [SDKMessage(role=role, blocks=[SDKTextBlock(text=text)]) for role, text in said]

    trajectory = run(play(start_server(Resumed), ScriptedPolicy(["42"]), TaskRef("resumed", "train", 0)))

    assert [message.text for message in trajectory.completion] == ["42"]
    assert len(trajectory.messages) == 4
