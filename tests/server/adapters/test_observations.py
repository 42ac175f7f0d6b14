"""Observations as text and images: what the model reads of each kind of value."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ors_gym.types import ImageBlock, text_of
from ors_gym_server.adapters.observation_text import as_json, image_block, observation_blocks, plain_text
from tests.server.adapters.test_actions import graphs, nested_spaces


def text(value, names=None, **options):
    return text_of(observation_blocks(value, names, **options))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("You see a door.", "You see a door."),
        (np.int64(14), "14"),
        (np.bool_(True), "true"),
        (np.float32(0.1), "0.1"),
        (1 / 3, "0.33333"),
        (-1234567.0, "-1.2346e+06"),
        (float("inf"), "inf"),
        (np.array([1.0, 0.25], np.float32), "[1, 0.25]"),
        (np.array(3.5), "3.5"),
        (np.array([], np.float32), "[]"),
        (np.array([True, False]), "[true, false]"),
        (np.arange(4).reshape(2, 2), "[[0, 1],\n [2, 3]]"),
        ((4, np.array([1, 2]), "x"), "[4, [1, 2], x]"),
        ({"at": 3, "seen": np.eye(2, dtype=int)}, "at: 3\nseen: \n  [[1, 0],\n   [0, 1]]"),
        (spaces.GraphInstance(np.array([1, 2]), None, None), "nodes: [1, 2]"),
        (
            spaces.GraphInstance(np.array([1, 2]), np.array([7]), np.array([[0, 1]])),
            "nodes: [1, 2]\nedges: [7]\nedge_links: [[0, 1]]",
        ),
        (None, "None"),
    ],
)
def test_each_kind_of_value_has_a_text(value, told):
    assert text(value) == told


def test_components_are_called_by_their_names_where_these_fit():
    assert text(np.array([0.5, 2.0]), ["x", "speed"]) == "x: 0.5, speed: 2"
    assert text((13, 10, 0), ["sum", "dealer", "ace"]) == "sum: 13, dealer: 10, ace: 0"
    assert text(np.array([0.5, 2.0, 1.0]), ["x", "speed"]) == "[0.5, 2, 1]"


def test_fractions_have_as_many_digits_as_asked():
    assert text(np.float64(np.pi), digits=3) == "3.14"


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 1), (40, 50, 3), (40, 50, 4)])
def test_a_picture_is_an_image_pixel_for_pixel(shape):
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (block,) = observation_blocks(picture)
    assert isinstance(block, ImageBlock)
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(block.data))))
    np.testing.assert_array_equal(read.reshape(shape), picture)
    assert image_block(picture) == block


def test_pictures_among_other_things_follow_the_text():
    camera = np.zeros((32, 64, 3), np.uint8)
    told, *images = observation_blocks({"speed": 3, "front": camera, "back": camera})
    assert told.text == "speed: 3\nfront: picture 1, 64 by 32 pixels\nback: picture 2, 64 by 32 pixels"
    assert len(images) == 2


def test_padding_is_shown_as_its_number_of_rows_and_a_board_in_full():
    rows = text(np.vstack([[[1.0, -0.0]], np.zeros((22, 2))])).splitlines()
    assert rows == ["[[1, 0],", *[" [0, 0],"] * 8, " … 14 more rows like the last]"]
    assert text(np.zeros((8, 1), np.uint8)).count("[0]") == 8


def test_a_small_grid_of_bytes_is_shown_as_numbers():
    assert text(np.ones((2, 2), np.uint8)) == "[[1, 1],\n [1, 1]]"


@pytest.mark.parametrize(
    ("rendered", "plain"),
    [
        ("\x1b[41mS\x1b[0mFFF\n", "[S]FFF"),
        ("|\x1b[35mY\x1b[0m| \x1b[34;1mB\x1b[0m |  \n", "|Y| B |"),
        ("\x1b[2J\x1b[H\x1b[1;43m \x1b[0m|", "[ ]|"),
        ("\n  (Down)\nS", "  (Down)\nS"),
        ("no codes", "no codes"),
    ],
)
def test_the_codes_of_a_terminal_are_left_out_and_its_marks_kept(rendered, plain):
    assert plain_text(rendered) == plain


@given(nested_spaces | graphs, st.integers(0, 2**31))
def test_every_observation_has_a_text_and_a_json_form(space, seed):
    space.seed(seed)
    observation = space.sample()
    assert all(block.type in ("text", "image") for block in observation_blocks(observation))
    json.dumps(as_json(observation), allow_nan=False)
