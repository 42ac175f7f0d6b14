"""Every space of Gymnasium, and every value in one, is read as it was written; what was not written is refused."""

from __future__ import annotations

import base64
import json
import math

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from ors_gym.spaces.native_spaces import read_space, write_space
from ors_gym.spaces.native_values import MAX_ARRAY_BYTES, Unsent, read_value, write_value
from tests.support.exactness import are_identical

SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)
DTYPES = ["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "uint16", "bool"]
SEEDS = st.integers(0, 2**31)


@st.composite
def boxes(draw):
    dtype, shape = np.dtype(draw(st.sampled_from(DTYPES))), draw(SHAPES)
    low, high = {"f": (-3.5, 4.25), "i": (-5, 7), "u": (0, 9), "b": (0, 1)}[dtype.kind]
    if dtype.kind in "fi" and draw(st.booleans()):
        low = -np.inf
    if dtype.kind in "fi" and draw(st.booleans()):
        high = np.inf
    if draw(st.booleans()) or not shape or dtype.kind == "b" or (dtype.kind == "i" and np.inf in (-low, high)):
        return spaces.Box(low, high, shape, dtype)
    lows = np.full(shape, low, np.float64 if dtype.kind == "f" else float)
    lows[0] = 1
    return spaces.Box(lows.astype(dtype) if dtype.kind == "f" else lows, np.full(shape, high), dtype=dtype)


INTEGERS = st.sampled_from([np.int8, np.int32, np.int64])
DISCRETE = st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 50), st.integers(-9, 9))
MULTI_DISCRETE = st.builds(
    lambda nvec, start, dtype: spaces.MultiDiscrete(nvec, dtype=dtype, start=np.full_like(nvec, start)),
    nps.arrays(np.int64, SHAPES.filter(len), elements=st.integers(1, 9)),
    st.integers(-3, 3),
    INTEGERS,
)
MULTI_BINARY = st.one_of(st.integers(1, 5), SHAPES.filter(len).map(list)).map(spaces.MultiBinary)
TEXT = st.builds(
    lambda length, charset: spaces.Text(length + 1, min_length=length, charset=charset),
    st.integers(0, 5),
    st.one_of(st.text(min_size=1, max_size=9), st.just(frozenset("zyx"))),
)
ARRAYS = st.one_of(boxes(), DISCRETE, MULTI_DISCRETE, MULTI_BINARY)
KEYS = st.text(max_size=4)
GRAPH_PARTS = st.one_of(DISCRETE, st.builds(lambda: spaces.Box(-1, 1, (2,))))


def containers(inner):
    parts = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        parts.map(spaces.Tuple),
        parts.map(spaces.OneOf),
        st.dictionaries(KEYS, inner, min_size=1, max_size=3).map(lambda each: spaces.Dict(list(each.items()))),
        inner.map(spaces.Sequence),
    )


SPACES = st.recursive(
    st.one_of(
        ARRAYS,
        TEXT,
        ARRAYS.map(lambda space: spaces.Sequence(space, stack=True)),
        st.builds(spaces.Graph, GRAPH_PARTS, st.none() | GRAPH_PARTS),
    ),
    containers,
    max_leaves=5,
)


def sent(wire):
    """What the other end reads."""
    return json.loads(json.dumps(wire, allow_nan=False))


@pytest.mark.filterwarnings("ignore:.*(precision lowered|Casting input)")
@settings(max_examples=60)
@given(SPACES, SEEDS)
def test_a_space_is_read_as_it_was_written_and_so_are_its_elements(space, seed):
    again = read_space(sent(write_space(space)))
    assert again == space
    assert repr(again) == repr(space)
    space.seed(seed)
    again.seed(seed)
    for _ in range(3):
        element = space.sample()
        assert are_identical(again.sample(), element)
        travelled = read_value(sent(write_value(element)))
        assert are_identical(travelled, element)
        assert space.contains(travelled) == space.contains(element)  # not all of Gymnasium 1.1 are


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_integers_without_bounds_stay_without_them():
    space = spaces.Box(np.array([-np.inf, 3]), np.array([np.inf, 5]), dtype=np.int64)
    again = read_space(sent(write_space(space)))
    assert isinstance(again, spaces.Box)
    assert again.bounded_below.tolist() == [False, True]
    assert again.bounded_above.tolist() == [False, True]


@pytest.mark.needs("gymnasium>=1.2")  # before, it is int64
@pytest.mark.parametrize("dtype", ["int32", "uint8"])
def test_the_number_type_of_a_discrete_space_is_kept(dtype):
    space = spaces.Discrete(4, start=1, dtype=dtype)
    again = read_space(sent(write_space(space)))
    assert again == space
    assert type(again.sample()) is type(space.sample())


FLOATS = st.floats(allow_nan=True, allow_infinity=True)
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        FLOATS,
        st.text(),
        st.binary(max_size=5),
        nps.arrays(nps.scalar_dtypes(), nps.array_shapes(min_dims=0, min_side=0, max_side=3)),
        nps.arrays(nps.unicode_string_dtypes(max_len=3), 2),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), inner, max_size=3),
        st.lists(inner, min_size=1, max_size=3).map(lambda items: _objects(items)),
    ),
    max_leaves=6,
)


def _objects(items):
    array = np.empty(len(items), object)
    array[:] = items
    return array


@settings(max_examples=60)
@given(VALUES)
def test_a_value_is_read_as_it_was_written(value):
    assert are_identical(read_value(sent(write_value(value))), value)


@pytest.mark.parametrize("scalar", [np.float32(0.1), np.float64("nan"), np.bool_(True), np.str_("é"), np.int8(-3)])
def test_a_scalar_stays_a_scalar_of_its_type(scalar):
    assert are_identical(read_value(sent(write_value(scalar))), scalar)


def test_pictures_are_compressed_where_that_is_shorter_and_can_be_written_to():
    flat, noise = np.zeros((84, 84, 4), np.uint8), np.random.default_rng(0).integers(0, 256, (84, 84, 4), np.uint8)
    assert len(json.dumps(write_value(flat))) < 400
    assert len(json.dumps(write_value(noise))) < 1.4 * noise.nbytes
    for picture in (flat, noise, np.asfortranarray(noise), noise[::2, ::-1]):
        travelled = read_value(sent(write_value(picture)))
        assert are_identical(travelled, picture)
        travelled[0, 0, 0] = 1


def test_what_cannot_travel_is_named_or_where_allowed_replaced():
    class Car:
        def __repr__(self):
            return "a car"

    with pytest.raises(TypeError, match="a value of type Car cannot travel"):
        write_value({"cars": [Car()]})
    told = read_value(sent(write_value({"cars": [Car()], "speed": 3}, lossy=True)))
    assert told["speed"] == 3
    assert isinstance(told["cars"][0], Unsent)
    assert told["cars"][0].text == "a car"
    assert told["cars"][0].type.endswith("Car")


def test_a_space_of_another_class_is_refused_by_name():
    class Board(spaces.Discrete):
        pass

    with pytest.raises(TypeError, match=r"Board is none of Gymnasium's"):
        write_space(spaces.Dict({"board": Board(3)}))


def data(count):
    return base64.b64encode(b"\0" * count).decode()


@pytest.mark.parametrize(
    "wire",
    [
        {},
        {"q": 1},
        {"n": 1, "z": 2},
        {"n": ["<f4", [2], data(4)]},
        {"n": ["<f4", [2**45], data(4)]},
        {"n": ["<f4", [-1], data(4)]},
        {"n": ["<f4", [1.0], data(4)]},
        {"n": ["<f4", "1", data(4)]},
        {"n": ["|O", [1], data(8)]},
        {"n": ["|V4", [1], data(4)]},
        {"n": ["<f4, <f4", [1], data(8)]},
        {"n": ["<f3", [1], data(3)]},
        {"n": ["<f4", [1] * 33, data(4)]},
        {"n": ["<f4", [1], "?"]},
        {"n": ["<f4", [1]]},
        {"n": None},
        {"z": ["|u1", [4], data(4)]},
        {"z": ["|u1", [MAX_ARRAY_BYTES + 1], data(4)]},
        {"o": [[3], [1, 2]]},
        {"o": [[1], 7]},
        {"s": ["<f8", data(16)]},
        {"t": "ab"},
        {"g": [1]},
        {"d": [[1]]},
        {"d": [[[1], 2]]},
        {"f": "many"},
        {"b": 3},
        {"x": []},
    ],
)
def test_what_is_not_a_value_is_refused(wire):
    with pytest.raises(ValueError, match="no value of an environment"):
        read_value(wire)


def test_a_compressed_array_is_unpacked_no_further_than_it_says():
    import zlib

    bomb = base64.b64encode(zlib.compress(b"\0" * 50_000_000)).decode()
    with pytest.raises(ValueError, match="5 bytes for the shape"):
        read_value({"z": ["|u1", [4], bomb]})


@pytest.mark.parametrize(
    "wire",
    [
        None,
        [],
        {},
        {"space": "Env"},
        {"space": "Discrete", "n": 0, "start": 0, "dtype": "<i8"},
        {"space": "Discrete", "n": 3, "start": 0, "dtype": "no"},
        {"space": "Discrete", "n": [], "start": 0, "dtype": "<i8"},
        {"space": "Box", "shape": [2**20, 2**20], "dtype": "<f4", "low": 0, "high": 1},
        {"space": "Box", "shape": [-1], "dtype": "<f4", "low": 0, "high": 1},
        {"space": "Box", "shape": [1], "dtype": "<f4", "low": {"f": "nan"}, "high": 1},
        {"space": "MultiDiscrete", "nvec": [0], "start": [0], "dtype": "<i8"},
        {"space": "MultiBinary", "n": "three"},
        {"space": "Text", "min_length": 4, "max_length": 2, "charset": "a"},
        {"space": "Tuple", "spaces": [None]},
        {"space": "Dict", "spaces": [["a"]]},
        {"space": "Sequence", "feature": 3, "stack": False},
        {"space": "Graph", "nodes": 1, "edges": None},
    ],
)
def test_what_is_not_a_space_is_refused(wire):
    with pytest.raises(ValueError):  # noqa: PT011  (some of the words are Gymnasium's, by its version)
        read_space(wire)


def test_floats_that_json_has_no_word_for_travel():
    assert json.dumps(write_value([math.inf, -math.inf, math.nan, -0.0]), allow_nan=False)
