"""Policies that need no trainer."""

from __future__ import annotations

import asyncio

from ors_gym import RandomPolicy, Reply, ScriptedPolicy, TaskRef, ToolCall, ToolCallSpace, ToolList, ToolSpec, Turn
from ors_gym.types import TerminalTool

TOOLS = ToolList(
    (
        ToolSpec("look"),
        ToolSpec("press", "", {"type": "object", "properties": {"color": {"enum": ["red", "blue"]}}, "required": ["color"]}),
    )
)


def turn(number: int = 0, tools: ToolList = TOOLS) -> Turn:
    return Turn("episode", TaskRef("buttons", "train", 0), (), tools, number)


def test_a_random_policy_calls_tools_with_input_that_their_schemas_allow():
    policy, space = RandomPolicy(seed=0), ToolCallSpace(TOOLS)

    replies = [asyncio.run(policy.act(turn())) for _ in range(50)]

    assert all(space.contains(reply.tool_calls[0]) for reply in replies)
    assert {reply.tool_calls[0].name for reply in replies} == {"look", "press"}


def test_a_random_policy_repeats_itself_with_the_same_seed():
    first, second = RandomPolicy(seed=3), RandomPolicy(seed=3)

    assert [asyncio.run(first.act(turn())) for _ in range(20)] == [asyncio.run(second.act(turn())) for _ in range(20)]


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
