"""Action spaces as tools: every action can be called, and every call that the schema allows is an action."""

from __future__ import annotations

import json
import string

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ors_gym.spaces.spaces import ToolCallSpace
from ors_gym.types import ToolList
from ors_gym_server.adapters.action_schemas import UnsupportedSpaceError, decode, describe, schema_of
from ors_gym_server.adapters.action_tools import ActionTools, InvalidActionError

shapes = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)
float_types = st.sampled_from([np.float16, np.float32, np.float64])
integer_types = st.sampled_from([np.int8, np.uint8, np.int32, np.int64, np.uint16])


@st.composite
def float_boxes(draw):
    shape, dtype = draw(shapes | st.just(())), draw(float_types)
    bound = st.floats(-100, 100, width=16) | st.sampled_from([-np.inf, np.inf])
    bounds = [
        np.array(draw(st.lists(bound, min_size=size, max_size=size)), np.float64).reshape(shape)
        for size in [int(np.prod(shape))] * 2
    ]
    low, high = np.minimum(*bounds), np.maximum(*bounds)
    low, high = np.where(low == np.inf, 0.0, low), np.where(high == -np.inf, 0.0, high)
    return spaces.Box(low.astype(dtype), high.astype(dtype), shape, dtype)


@st.composite
def integer_boxes(draw):
    dtype, shape = draw(integer_types), draw(shapes)
    if draw(st.booleans()):
        return spaces.Box(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype)
    low = draw(st.integers(0, 50))
    return spaces.Box(low, low + draw(st.integers(0, 50)), shape, dtype)


@st.composite
def multi_discretes(draw):
    nvec = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    return spaces.MultiDiscrete(nvec, start=[draw(st.integers(-3, 3)) for _ in nvec])


characters = st.text(st.sampled_from(string.printable[:95]), min_size=1, max_size=20)
plain_spaces = (
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 9), st.integers(-5, 5))
    | float_boxes()
    | integer_boxes()
    | shapes.map(lambda shape: spaces.Box(0, 1, shape, np.bool_))
    | multi_discretes()
    | shapes.map(spaces.MultiBinary)
    | st.builds(
        lambda size, more, charset: spaces.Text(size + more, min_length=size, charset=charset),
        st.integers(0, 3),
        st.integers(1, 5),
        characters,
    )
)
node_spaces = st.sampled_from([spaces.Discrete(3), spaces.Box(-1, 1, (2,)), spaces.Box(0, 5, (1,), np.int64)])
nested_spaces = st.recursive(
    plain_spaces | node_spaces.map(lambda nodes: spaces.Graph(nodes, None)),
    lambda inner: (
        st.dictionaries(st.text(string.ascii_lowercase, min_size=1, max_size=4), inner, max_size=3).map(spaces.Dict)
        | st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple)
        | st.lists(inner, min_size=1, max_size=3).map(spaces.OneOf)
        | inner.map(spaces.Sequence)
    ),
    max_leaves=5,
) | st.sampled_from([spaces.Discrete(3), spaces.Box(-1, 1, (2,))]).map(lambda space: spaces.Sequence(space, stack=True))


def as_json(space, element):
    """An element as the JSON that stands for it."""
    match space:
        case spaces.Dict():
            return {key: as_json(part, element[key]) for key, part in space.spaces.items()}
        case spaces.Tuple():
            return [as_json(part, item) for part, item in zip(space.spaces, element, strict=True)]
        case spaces.OneOf():
            option, value = element
            return {"option": int(option), "value": as_json(space.spaces[option], value)}
        case spaces.Sequence():
            return [as_json(space.feature_space, item) for item in element]
        case spaces.Graph():
            graph = {"nodes": [as_json(space.node_space, node) for node in element.nodes]}
            if space.edge_space is None:
                return graph
            pairs = [] if element.edges is None else zip(element.edge_links.tolist(), element.edges, strict=True)
            edges = [{"from": ends[0], "to": ends[1], "value": as_json(space.edge_space, edge)} for ends, edge in pairs]
            return graph | {"edges": edges}
        case spaces.Text():
            return element
        case _:
            return np.asarray(element).tolist()


graphs = st.builds(spaces.Graph, node_spaces, node_spaces)  # no schema says that an edge joins nodes that exist


@given(nested_spaces | graphs, st.integers(0, 2**31))
def test_every_action_has_a_json_form_that_the_schema_allows_and_that_is_read_back_as_the_same_action(space, seed):
    space.seed(seed)
    element = space.sample()
    written = json.loads(json.dumps(as_json(space, element)))
    schema = schema_of(space)
    Draft202012Validator.check_schema(schema)
    assert Draft202012Validator(schema).is_valid(written)
    read = decode(space, written)
    assert space.contains(read)
    assert as_json(space, read) == written
    assert describe(space)


@pytest.mark.parametrize("bound", [np.float16(16.375), np.float32(0.7), np.float32(0.4)])
def test_a_bound_that_is_shorter_in_decimals_is_allowed_in_both_forms(bound):
    for space in (spaces.Box(bound, 17, (), bound.dtype), spaces.Box(0, bound, (), bound.dtype)):
        for written in (float(bound), float(str(bound))):
            assert Draft202012Validator(schema_of(space)).is_valid(written)
            assert space.contains(decode(space, written))


@given(nested_spaces, st.integers(0, 2**31))
def test_every_call_that_the_tools_allow_is_an_action(space, seed):
    tools = ActionTools(space)
    call = ToolCallSpace(ToolList(tools.specs), seed=seed).sample()
    assert space.contains(tools.action(call.name, call.input))


FROZEN_LAKE = spaces.Discrete(4)
MOVES = ("left", "down", "right", "up")


def test_named_actions_are_one_tool_with_an_enum():
    tools = ActionTools(FROZEN_LAKE, MOVES)
    (spec,) = tools.specs
    assert spec.name == "step"
    assert spec.parameters["properties"]["action"]["enum"] == list(MOVES)
    assert [tools.action("step", {"action": name}) for name in MOVES] == [0, 1, 2, 3]


def test_named_actions_are_one_tool_each_where_asked():
    tools = ActionTools(spaces.Discrete(3, start=-1), ["turn left", "wait", "turn right"], tool_per_action=True)
    assert [spec.name for spec in tools.specs] == ["turn_left", "wait", "turn_right"]
    assert [tools.action(spec.name) for spec in tools.specs] == [-1, 0, 1]
    assert all(spec.input_schema is None for spec in tools.specs)


def test_named_components_are_arguments_with_bounds_of_their_own():
    space = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, np.inf], np.float32))
    tools = ActionTools(space, ["steer", "gas", "brake"])
    properties = tools.specs[0].parameters["properties"]
    assert properties["steer"] == {
        "type": "number",
        "minimum": -1,
        "maximum": 1,
        "description": "A number from -1 to 1",
    }
    assert "maximum" not in properties["brake"]
    np.testing.assert_array_equal(tools.action("step", {"steer": 0.5, "gas": 1, "brake": 7}), [0.5, 1, 7])


def test_a_dict_space_has_its_keys_as_arguments_and_a_one_of_space_a_tool_for_each_option():
    move = spaces.Dict({"direction": spaces.Discrete(4), "say": spaces.Text(5)})
    tools = ActionTools(spaces.OneOf([move, spaces.Discrete(2)]), ["move", "wait"])
    assert [spec.name for spec in tools.specs] == ["move", "wait"]
    assert tools.action("move", {"direction": 2, "say": "hi"}) == (0, {"direction": 2, "say": "hi"})
    assert tools.action("wait", {"action": 1}) == (1, 1)


def test_bounds_are_written_as_short_as_they_parse_back():
    assert describe(spaces.Box(-0.4, 0.4, (17,))) == "a list of 17, each a number from -0.4 to 0.4"


def test_a_large_box_has_a_small_schema():
    assert len(json.dumps(schema_of(spaces.Box(0, 255, (84, 84, 3), np.uint8)))) < 400
    low = np.random.default_rng(0).uniform(-1, 0, (1000, 3)).astype(np.float32)
    assert len(json.dumps(schema_of(spaces.Box(low, -low)))) < 2000


@pytest.mark.parametrize(
    ("space", "names", "arguments", "said"),
    [
        (FROZEN_LAKE, MOVES, {"action": "jump"}, "one of left, down, right, up"),
        (FROZEN_LAKE, MOVES, {}, "'action' is a required property"),
        (FROZEN_LAKE, None, {"action": 4}, "an integer from 0 to 3"),
        (FROZEN_LAKE, None, {"action": True}, "an integer from 0 to 3"),
        (FROZEN_LAKE, None, {"action": 1, "why": "because"}, "'why' was unexpected"),
        (spaces.Box(-2, 2, (1,)), ["torque"], {"torque": 2.5}, "in 'torque': 2.5 is greater than the maximum of 2"),
        (spaces.Box(-np.inf, np.inf, (2,)), None, {"action": [1, 1e39]}, "not finite as float32"),
        (spaces.Box(-np.inf, np.inf, (2,)), None, {"action": [1, float("nan")]}, "not finite as float32"),
        (spaces.Box(-1, 1, (2, 2)), None, {"action": [[0, 0], [0]]}, "in 'action'[1]"),
        (spaces.Text(3, charset="ab"), None, {"action": "abc"}, "of the characters 'ab'"),
        (spaces.Text(3, charset="ab"), None, {"action": "ab\n"}, "text of 1 to 3"),
        (spaces.Graph(spaces.Discrete(2), spaces.Discrete(2)), None, None, "a graph"),
    ],
)
def test_an_invalid_action_is_refused_with_the_allowed_ones(space, names, arguments, said):
    with pytest.raises(InvalidActionError) as refused:
        ActionTools(space, names).action("step", arguments)
    assert said in str(refused.value)
    assert refused.value.reason == "input_validation"


def test_an_edge_between_nodes_that_do_not_exist_is_refused():
    graph = {"nodes": [0, 1], "edges": [{"from": 0, "to": 2, "value": 1}]}
    with pytest.raises(InvalidActionError, match="outside of Graph"):
        ActionTools(spaces.Graph(spaces.Discrete(2), spaces.Discrete(2))).action("step", {"action": graph})


def test_an_unknown_tool_is_named_with_the_known_ones():
    with pytest.raises(InvalidActionError, match="no tool 'jump'; there is left, down") as refused:
        ActionTools(FROZEN_LAKE, MOVES, tool_per_action=True).action("jump")
    assert refused.value.reason == "not_found"


@pytest.mark.parametrize(
    ("space", "names", "options", "said"),
    [
        (FROZEN_LAKE, ["left", "right"], {}, "2 action names .left, right. do not fit"),
        (FROZEN_LAKE, ["a", "a", "b", "c"], {}, "same name"),
        (FROZEN_LAKE, ["go!", "go?", "b", "c"], {"tool_per_action": True}, "two actions would become the tool 'go'"),
        (FROZEN_LAKE, None, {"tool_per_action": True}, "with names"),
    ],
)
def test_names_that_do_not_fit_are_refused_when_the_tools_are_made(space, names, options, said):
    with pytest.raises(ValueError, match=said):
        ActionTools(space, names, **options)


def test_a_space_of_an_unknown_kind_is_refused_with_what_to_do():
    class Colours(spaces.Space):
        pass

    with pytest.raises(UnsupportedSpaceError, match=r"type Colours .* gymnasium\.ActionWrapper"):
        ActionTools(Colours())
