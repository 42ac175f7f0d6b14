"""Policies that need no trainer."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from ors_gym import RandomPolicy, Reply, ScriptedPolicy, TaskRef, ToolCall, ToolSpec, Turn
from ors_gym.policies.policy import EPISODES_KEPT
from ors_gym.spaces import ToolCallSpace
from ors_gym.types import TerminalTool, ToolList

TOOLS = ToolList(
    (
        ToolSpec("look"),
        ToolSpec(
            "press", "", {"type": "object", "properties": {"color": {"enum": ["red", "blue"]}}, "required": ["color"]}
        ),
    )
)


def turn(number: int = 0, tools: ToolList = TOOLS) -> Turn:
    return Turn("episode", TaskRef("buttons", "train", 0), (), tools, number)


def test_a_random_policy_calls_tools_with_input_that_their_schemas_allow():
    policy, space = RandomPolicy(seed=0), ToolCallSpace(TOOLS)

    replies = [asyncio.run(policy.act(turn())) for _ in range(50)]

    assert all(space.contains(reply.tool_calls[0]) for reply in replies)
    assert {reply.tool_calls[0].name for reply in replies} == {"look", "press"}


def test_a_random_policy_repeats_itself_with_the_same_seed_in_any_order_of_episodes():
    def play(order: list[tuple[str, int]]) -> dict[tuple[str, int], Reply]:
        policy = RandomPolicy(seed=3)
        for episode in ("a", "b"):  # each episode begins in order; how they go on differs
            policy._draw_for(replace(turn(), episode_id=episode))
        return {
            (episode, number): asyncio.run(policy.act(replace(turn(number), episode_id=episode)))
            for episode, number in order
        }

    in_turn = [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    one_first = [("b", 0), ("b", 1), ("a", 0), ("a", 1)]

    assert play(in_turn) == play(one_first)


def test_a_random_policy_that_plays_for_days_keeps_no_state_of_the_first_episodes():
    policy = RandomPolicy(seed=0)

    async def play(count: int) -> None:
        for number in range(count):
            await policy.act(replace(turn(tools=ToolList()), episode_id=str(number)))

    asyncio.run(play(EPISODES_KEPT + 10))

    assert len(policy._episodes) == EPISODES_KEPT
    assert str(EPISODES_KEPT + 9) in policy._episodes


def test_a_random_policy_writes_a_message_where_there_is_only_a_terminal_tool():
    reply = asyncio.run(RandomPolicy(seed=0).act(turn(tools=ToolList((), TerminalTool("answer", "text")))))

    assert reply.text
    assert not reply.tool_calls


def test_a_scripted_policy_plays_its_moves_in_order_and_then_stops():
    policy = ScriptedPolicy([ToolCall("look"), "it is red"])

    assert [asyncio.run(policy.act(turn(number))) for number in range(3)] == [
        Reply(tool_calls=(ToolCall("look"),)),
        Reply(text="it is red"),
        Reply(),
    ]


def test_a_reply_that_could_not_be_read_calls_nothing():
    with pytest.raises(ValueError, match="calls no tools"):
        Reply(error="unreadable", tool_calls=(ToolCall("look"),))
