"""JSON of others is read within limits, and every refusal is one kind of error."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ors_gym.errors import ProtocolError
from ors_gym.json_text import JSONLimits, encode_json, has_more_values, parse_json, read_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_what_was_written_is_read_back(value):
    written = json.dumps(value)
    assert read_json(written) == read_json(written.encode()) == value


@given(st.binary() | st.text(alphabet='[]{}",:\\u0123456789dDeE.- ntf', max_size=200))
def test_any_text_gives_json_or_a_value_error(text):
    try:
        value = read_json(text)
    except ValueError:
        return
    json.dumps(value, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 201 + "]" * 201, "nested deeper than 200"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested deeper than 200"),
        ("[" * 1_000_000, "nested deeper than 200"),
        ("1" * 4301, "an integer of 4,301 digits"),
        ("-" + "1" * 1_000_000, "an integer of 1,000,001 digits"),
        ("[" + "[]," * 2_000_000 + "0]", "more than 2,000,000 values"),
        (b" " * (64 * 2**20 + 1), "longer than 67,108,864 bytes"),
        (b'"\xff"', "utf-8"),
        ("nothing", "Expecting value"),
    ],
    ids=["depth", "depth of objects", "unclosed", "digits", "more digits", "values", "bytes", "encoding", "no JSON"],
)
def test_what_exceeds_a_limit_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        read_json(text)
    with pytest.raises(ProtocolError, match=reason):
        parse_json(text)


def test_what_is_within_the_limits_is_read():
    assert read_json("[" * 200 + "]" * 200)
    assert read_json("1" * 4300)
    assert read_json(json.dumps(["[" * 500])) == ["[" * 500]
    text = "a,b:c[d{" * 500_000  # punctuation in a text is no structure
    assert read_json(json.dumps(text)) == text


def test_the_limit_of_digits_holds_where_python_has_none():
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        with pytest.raises(ValueError, match="digits"):
            read_json("9" * 5000)
    finally:
        sys.set_int_max_str_digits(before)


def test_limits_can_be_tighter():
    limits = JSONLimits(max_bytes=30, max_depth=2, max_digits=3, max_values=5)
    assert read_json("[[123]]", limits) == [[123]]
    for text in ("[[[]]]", "1234", "[1,2,3,4,5,6]", " " * 31):
        with pytest.raises(ValueError, match=r"deeper|digits|values|longer"):
            read_json(text, limits)


@pytest.mark.parametrize("text", [r'"\ud800"', r'"\uDC00"', '"\ud800"', r'{"\udfff": 1}'])
def test_half_a_surrogate_pair_is_replaced(text):
    assert "�" in json.dumps(read_json(text), ensure_ascii=False)


def test_a_surrogate_pair_and_an_escaped_backslash_stay():
    assert read_json(r'["\ud83d\ude00", "\\ud800"]') == ["😀", r"\ud800"]


@pytest.mark.parametrize(
    "payload", [float("nan"), float("inf"), "\ud800", 10**5000], ids=["nan", "infinity", "surrogate", "digits"]
)
def test_what_json_cannot_carry_is_not_written(payload):
    with pytest.raises(ValueError, match=r".+"):
        encode_json([payload])


def test_what_is_nested_too_deeply_is_not_written():
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="nested deeper"):
        encode_json(value)
    while value:  # so that it is not freed recursively
        value = value.pop()  # type: ignore[assignment]
    deep: object = 1
    for _ in range(250):
        deep = {"a": deep}
    with pytest.raises(ValueError, match="nested deeper than 200"):
        encode_json(deep)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(alphabet='",[{:\\a'),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='",\\', max_size=3), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_values_are_counted_outside_of_strings(value):
    """An empty container counts as two at most, so a text is never let through with more than the limit."""

    def count(value):
        if isinstance(value, dict):
            return 1 + sum(1 + count(child) for child in value.values())
        return 1 + sum(map(count, value)) if isinstance(value, list) else 1

    text = json.dumps(value)
    values = count(value)
    assert has_more_values(text, values - 2)
    assert not has_more_values(text, 2 * values)
    assert has_more_values(text, values - 2) == has_more_values(text.encode(), values - 2)


def test_quotation_marks_and_commas_in_strings_are_no_values():
    assert not has_more_values(json.dumps(['\\",\\' * 1000, '",' * 1000]), 5)
    assert has_more_values('["' * 1000, 5)
