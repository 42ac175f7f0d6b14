"""The records: what is read is what was written, and what cannot be read is named."""

from __future__ import annotations

import contextlib
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ors_gym.errors import ProtocolError
from ors_gym.types import (
    GroupScore,
    ImageBlock,
    Message,
    ReasoningBlock,
    Split,
    TextBlock,
    ToolCallBlock,
    ToolList,
    ToolOutput,
    ToolResultBlock,
    ToolSpec,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=3)
DETAIL = st.none() | OBJECTS
BLOCKS = st.builds(TextBlock, TEXT, DETAIL) | st.builds(ImageBlock, TEXT, TEXT.filter(bool), DETAIL)
USER = st.builds(ToolResultBlock, TEXT, st.lists(BLOCKS, max_size=2).map(tuple), st.booleans(), DETAIL) | BLOCKS
ASSISTANT = (
    st.builds(ReasoningBlock, TEXT, st.none() | TEXT.filter(bool), DETAIL)
    | st.builds(ToolCallBlock, TEXT, TEXT, OBJECTS, DETAIL)
    | BLOCKS
)
MESSAGES = st.one_of(
    st.builds(Message, st.just("system"), st.lists(BLOCKS, max_size=3).map(tuple), DETAIL),
    st.builds(Message, st.just("user"), st.lists(USER, max_size=3).map(tuple), DETAIL),
    st.builds(Message, st.just("assistant"), st.lists(ASSISTANT, max_size=3).map(tuple), DETAIL),
)


@given(MESSAGES)
def test_a_message_is_read_as_it_was_written(message):
    assert Message.from_wire(json.loads(json.dumps(message.to_wire()))) == message
    assert pickle.loads(pickle.dumps(message)) == message


@given(JSON)
def test_reading_anything_at_all_gives_a_record_or_a_protocol_error(wire):
    for read in (ToolOutput.from_wire, ToolList.from_wire, Message.from_wire, Split.from_wire, GroupScore.from_wire):
        with contextlib.suppress(ProtocolError):
            read(wire)


KEYS = ["ok", "output", "blocks", "reward", "finished", "metadata", "type", "text", "tools", "name", "role", "splits"]
NEARLY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["text", "image", "user", "tool_result"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=12,
)


@given(NEARLY)
def test_reading_what_is_nearly_right_gives_a_record_or_a_protocol_error(wire):
    for read in (ToolOutput.from_wire, ToolList.from_wire, Message.from_wire, Split.from_wire):
        with contextlib.suppress(ProtocolError):
            read(wire)


@pytest.mark.parametrize("reward", [None, 0.0, 1, -2.5])
def test_no_reward_and_a_reward_of_zero_are_different(reward):
    output = ToolOutput.from_wire({"ok": True, "output": {"blocks": [], "reward": reward}})
    assert output.reward == reward
    assert (output.reward is None) == (reward is None)


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), "1", True, [1]])
def test_a_reward_that_is_not_a_finite_number_is_refused(reward):
    with pytest.raises(ProtocolError, match="finite number"):
        ToolOutput.from_wire({"ok": True, "output": {"blocks": [], "reward": reward}})


def test_a_refused_call_is_an_output_and_reads_as_its_error():
    output = ToolOutput.from_wire({"ok": False, "error": "no such tool", "reason": "not_found"})
    assert (output.ok, output.text, output.reason, output.reward) == (False, "no such tool", "not_found", None)


def test_older_servers_lack_the_newer_fields():
    tools = ToolList.from_wire({"tools": [{"name": "guess", "description": None, "input_schema": None}]})
    assert tools.terminal_tool is None
    assert not tools.supports_score_group
    assert tools.message_block_types == ("text", "image")
    assert tools.names == ("guess",)


@pytest.mark.parametrize(
    "block",
    [{"type": "text", "text": 5}, {"type": "text"}, {"type": "image", "data": None}, {"type": "video"}, "text", None],
)
def test_a_block_that_holds_no_text_or_image_is_refused(block):
    with pytest.raises(ProtocolError):
        ToolOutput.from_wire({"ok": True, "output": {"blocks": [block]}})


@pytest.mark.parametrize("schema", [True, [], "object"])
def test_a_tool_whose_input_schema_is_none_is_refused(schema):
    with pytest.raises(ProtocolError, match="'guess'"):
        ToolSpec.from_wire({"name": "guess", "input_schema": schema})


SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green"]},
        "where": {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}], "default": None},
        "many": {"type": "array", "items": {"type": "integer", "minimum": 0, "exclusiveMaximum": 9}},
    },
    "$defs": {"Point": {"type": "object", "properties": {"x": {"type": "number"}}, "additionalProperties": False}},
    "required": ["colour"],
}


def test_a_tool_is_declared_with_its_whole_schema():
    assert ToolSpec("paint-it.now", "Paint.", SCHEMA).to_openai()["function"]["parameters"] == SCHEMA
    assert ToolSpec("look").to_openai()["function"]["parameters"] == {"type": "object", "properties": {}}
