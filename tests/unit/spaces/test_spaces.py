"""What the spaces give is what they contain."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from ors_gym.spaces.schemas import Schema
from ors_gym.spaces.spaces import BlocksSpace, MessagesSpace, TextSpace, ToolCallSpace
from ors_gym.types import TerminalTool, ToolCall, ToolList, ToolSpec

WORDS = ToolSpec(
    "guess", input_schema={"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
)
LOOK = ToolSpec("look")


class TestTextSpace:
    @given(st.text())
    def test_any_string_is_in_it(self, text):
        assert text in TextSpace()

    @pytest.mark.parametrize("other", [None, 3, b"text", ["text"], ToolCall("look")])
    def test_nothing_else_is(self, other):
        assert other not in TextSpace()

    @given(st.text(max_size=6), st.integers(0, 3), st.integers(3, 5))
    def test_bounds_are_inclusive(self, text, shortest, longest):
        assert (text in TextSpace(longest, min_length=shortest)) == (shortest <= len(text) <= longest)

    @given(st.integers(0, 100), st.none() | st.integers(0, 100), st.integers(0, 2**32 - 1))
    def test_a_sample_is_in_the_space(self, shortest, more, seed):
        space = TextSpace(None if more is None else shortest + more, min_length=shortest, seed=seed)
        assert all(space.sample() in space for _ in range(3))

    def test_impossible_bounds_are_refused(self):
        with pytest.raises(ValueError, match="at least 2 and at most 1"):
            TextSpace(1, min_length=2)

    def test_spaces_are_compared_by_their_bounds(self):
        assert TextSpace() == TextSpace(seed=3) != TextSpace(9)
        assert repr(TextSpace()) == "TextSpace()"
        assert repr(TextSpace(9, min_length=1)) == "TextSpace(max_length=9, min_length=1)"


class TestToolCallSpace:
    space = ToolCallSpace([WORDS, LOOK])

    def test_a_call_and_its_mapping_are_the_same_element(self):
        assert ToolCall("guess", {"word": "crane"}) in self.space
        assert {"name": "guess", "input": {"word": "crane"}} in self.space
        assert {"name": "look"} in self.space

    @pytest.mark.parametrize(
        "other",
        [
            ToolCall("guess"),
            ToolCall("guess", {"word": 3}),
            ToolCall("guess", {"word": "crane", "extra": float("nan")}),
            ToolCall("guess", {"word": "crane", "extra": {1, 2}}),
            ToolCall("quit"),
            {"name": "look", "arguments": {}},
            {"name": ["look"]},
            {"input": {}},
            {},
            "look",
            None,
            3,
        ],
    )
    def test_what_no_tool_takes_is_not_in_it(self, other):
        assert other not in self.space

    def test_every_tool_is_drawn(self):
        space = ToolCallSpace([WORDS, LOOK], seed=0)
        assert {space.sample().name for _ in range(50)} == {"guess", "look"}

    def test_a_mask_restricts_the_tools(self):
        space = ToolCallSpace([WORDS, LOOK], seed=0)
        mask = space.mask("look")
        assert mask.dtype == np.int8
        assert list(mask) == [0, 1]
        assert {space.sample(mask=mask).name for _ in range(20)} == {"look"}
        assert {space.sample(probability=np.array([1.0, 0.0])).name for _ in range(20)} == {"guess"}

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({"mask": np.array([0, 0], dtype=np.int8)}, "no tool to draw from"),
            ({"mask": np.array([1], dtype=np.int8)}, "int8 array of shape"),
            ({"mask": np.array([1.0, 0.0])}, "int8 array of shape"),
            ({"mask": [1, 0]}, "int8 array of shape"),
            ({"mask": np.array([1, -1], dtype=np.int8)}, "negative"),
            ({"probability": np.array([0.5, 0.1])}, "sum to 0.6"),
            ({"mask": np.array([1, 0], dtype=np.int8), "probability": np.array([1.0, 0.0])}, "not both"),
        ],
    )
    def test_a_mask_of_another_form_is_refused(self, arguments, says):
        with pytest.raises(ValueError, match=says):
            self.space.sample(**arguments)

    def test_masking_an_unknown_tool_names_the_tools_there_are(self):
        with pytest.raises(ValueError, match="'quit'; there are guess, look"):
            self.space.mask("quit")

    def test_an_environment_without_tools_has_no_action_to_draw(self):
        with pytest.raises(ValueError, match="no tool to draw from"):
            ToolCallSpace([]).sample()

    def test_the_terminal_tool_is_the_last_of_the_tools(self):
        space = ToolCallSpace(ToolList((LOOK,), TerminalTool("answer", "text")), seed=0)
        assert space.names == ("look", "answer")
        call = space.sample(mask=space.mask("answer"))
        assert call in space
        assert isinstance(call.input["text"], str)
        assert ToolCall("answer", {"text": 3}) not in space
        assert ToolCall("finish") in ToolCallSpace(ToolList((), TerminalTool("finish")))

    def test_the_same_seed_gives_the_same_calls_in_every_process(self):
        program = (
            "from ors_gym.spaces.spaces import ToolCallSpace; from ors_gym.types import ToolSpec; "
            "schema = {'properties': {key: {'pattern': '[^x]+'} for key in 'abc'}}; "
            "space = ToolCallSpace([ToolSpec('a', input_schema=schema), ToolSpec('b')], seed=7); "
            "print([space.sample() for _ in range(5)])"
        )
        runs = [
            subprocess.run(
                [sys.executable, "-c", program],
                env={"PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
                text=True,
            ).stdout
            for seed in ("1", "2")
        ]
        assert runs[0] == runs[1]

    def test_copies_draw_alike_but_do_not_disturb_each_other(self):
        space = ToolCallSpace([WORDS, LOOK], seed=5)
        copies = [deepcopy(space), pickle.loads(pickle.dumps(space))]
        drawn = [space.sample() for _ in range(5)]
        for copy in copies:
            assert copy == space
            assert [copy.sample() for _ in range(5)] == drawn

    def test_spaces_are_compared_by_their_tools(self):
        assert ToolCallSpace([WORDS]) == ToolCallSpace([WORDS], seed=1) != ToolCallSpace([LOOK])
        assert repr(self.space) == "ToolCallSpace(guess, look)"

    def test_calls_go_through_json_and_back(self):
        drawn = [self.space.sample() for _ in range(5)]
        assert self.space.from_jsonable(json.loads(json.dumps(self.space.to_jsonable(drawn)))) == drawn

    def test_a_tool_without_a_usable_schema_is_named_when_it_is_used(self):
        with pytest.raises(ValueError, match="no JSON Schema"):
            _ = ToolCall("odd") in ToolCallSpace([ToolSpec("odd", input_schema={"type": 3})])
        with pytest.raises(ValueError, match="another document"):
            ToolCallSpace([ToolSpec("odd", input_schema={"$ref": "https://example.com/x"})]).sample()


SPACES = [TextSpace(seed=1), ToolCallSpace([WORDS, LOOK], seed=1), BlocksSpace(seed=1), MessagesSpace(seed=1)]


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_every_space_is_seeded_compared_and_pickled(space):
    again = pickle.loads(pickle.dumps(space))
    assert again == space
    assert hash(again) == hash(space)
    space.seed(3)
    drawn = [space.sample() for _ in range(5)]
    assert all(element in space for element in drawn)
    again.seed(3)
    assert [again.sample() for _ in range(5)] == drawn
    assert space != gymnasium.spaces.Discrete(2)
    assert not space.is_np_flattenable


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_gymnasiums_vector_utilities_batch_the_spaces(space):
    batched = batch_space(space, 3)
    drawn = batched.sample()
    assert drawn in batched
    assert len(set(map(repr, drawn))) > 1, "each copy has a seed of its own"
    assert list(iterate(batched, drawn)) == list(drawn)
    assert concatenate(space, drawn, create_empty_array(space, 3)) == drawn
    assert batched == batch_space(space, 3)
    with pytest.raises(gymnasium.error.CustomSpaceError):
        gymnasium.vector.utils.create_shared_memory(space, 3)


# ---------------------------------------------------------------- schemas


def draws(document: Any, count: int = 30) -> list[Any]:
    schema, rng = Schema(document), random.Random(0)
    return [schema.sample(rng) for _ in range(count)]


NODE = {
    "$ref": "#/$defs/Node",
    "$defs": {
        "Node": {
            "properties": {
                "value": {"type": "integer"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
            },
            "required": ["value", "children"],
        }
    },
}


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"type": "object"},
        {"type": ["integer", "null"]},
        {"enum": [1, "two", None]},
        {"const": {"a": 1}},
        {"type": "integer", "minimum": 3, "maximum": 3},
        {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
        {"type": "integer", "multipleOf": 7, "minimum": 100, "maximum": 110},
        {"type": "integer", "minimum": 2**70},
        {"type": "integer", "multipleOf": 2.5},
        {"type": "number", "multipleOf": 0.5, "exclusiveMinimum": 1},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001},
        {"type": "number", "maximum": -1e300},
        {"type": "string", "minLength": 50},
        {"type": "string", "maxLength": 0},
        {"type": "string", "pattern": "^[a-f0-9]{8}(-[a-f0-9]{4}){3}$"},
        {"type": "string", "pattern": r"^(?:\+\d{1,3} )?\(\d{3}\) \d{3}-\d{4}$"},
        {"type": "string", "pattern": r"^(a|b)\1$"},
        {"type": "string", "pattern": r'^[^"\s]+$', "minLength": 3, "maxLength": 4},
        {"type": "string", "pattern": "x", "minLength": 10},
        {"type": "string", "pattern": r"^(?!bad)\w{3,5}$"},
        {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2},
        {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True, "minItems": 3},
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "items": False},
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "array",
            "items": [{"type": "integer"}],
            "additionalItems": False,
        },
        {"type": "array", "contains": {"const": 5}, "minContains": 2},
        {
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["b"],
            "additionalProperties": False,
        },
        {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 3},
        {"type": "object", "patternProperties": {"^x[0-9]$": {"type": "null"}}, "additionalProperties": False},
        {
            "type": "object",
            "propertyNames": {"enum": ["a", "b"]},
            "additionalProperties": {"const": 1},
            "minProperties": 1,
        },
        {"properties": {"a": {}, "b": {}, "c": {}}, "maxProperties": 1},
        {"properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}},
        {"properties": {"a": {"default": 5, "type": "integer"}}},
        {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 2}]},
        {"oneOf": [{"type": "integer", "multipleOf": 2}, {"type": "integer", "multipleOf": 3}]},
        {
            "allOf": [
                {"properties": {"a": {"minimum": 5}}},
                {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
            ]
        },
        {"allOf": [{"anyOf": [{"const": 1}, {"const": 2}]}, {"anyOf": [{"const": 2}, {"const": 3}]}]},
        {"type": "integer", "not": {"minimum": 0}},
        {
            "if": {"properties": {"a": {"const": 1}}},
            "then": {"required": ["b"]},
            "properties": {"a": {"enum": [1, 2]}, "b": {}},
        },
        {"anyOf": [{"type": "string", "pattern": r"\p{L}+"}, {"type": "integer"}]},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}}},
        NODE,
        None,
    ],
    ids=json.dumps,
)
def test_what_a_schema_gives_it_allows(document):
    validator = validator_for(document or {}, default=Draft202012Validator)(document or {})
    for value in draws(document):
        validator.validate(json.loads(json.dumps(value)))


def test_draws_have_variety():
    assert len(set(draws({"type": "integer"}))) > 10
    assert {len(value) for value in draws({"type": "array", "items": {"type": "null"}})} == {0, 1, 2, 3}
    optional = [set(value) for value in draws({"properties": {"a": {"type": "null"}, "b": {"type": "null"}}})]
    assert all(keys in optional for keys in (set(), {"a"}, {"b"}, {"a", "b"})), "optional arguments come and go"
    assert 5 in (value.get("a") for value in draws({"properties": {"a": {"type": "integer", "default": 5}}}, 100))


def test_a_text_is_one_of_its_examples_unless_they_are_wrong():
    assert set(draws({"type": "string", "examples": ["up", "down"]})) == {"up", "down"}
    assert set(map(len, draws({"type": "string", "examples": ["up"], "minLength": 4, "maxLength": 4}, 3))) == {4}


def test_a_schema_that_nothing_satisfies_is_refused():
    with pytest.raises(ValueError, match="no value found"):
        draws({"type": "integer", "minimum": 2, "maximum": 1})
