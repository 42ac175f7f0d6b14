"""No text makes a reader raise, and none takes more than time in proportion to its length."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ors_gym.dialects import DIALECTS, Dialect, dialect
from ors_gym.dialects.scanning import MAX_CALLS, MAX_CHARACTERS, MAX_DEPTH, MAX_DIGITS
from ors_gym.types import ToolSpec
from tests.support.hostile_texts import OPENINGS, PIECES, hostile_texts

TOOLS = (ToolSpec("f", "", {"type": "object", "properties": {"s": {"type": "string"}, "n": {"type": "integer"}}}),)
every_dialect = pytest.mark.parametrize("one", DIALECTS.values(), ids=str)


def lines_run(function: Callable[[], Any]) -> int:
    """How many lines of Python a call runs."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()  # coverage's
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


@every_dialect
def test_the_work_grows_no_faster_than_the_text(one: Dialect):
    for (name, short), (_, long) in zip(hostile_texts(one.name, 1_000), hostile_texts(one.name, 4_000), strict=True):
        few, many = (lines_run(lambda text=text: one.parse(text, tools=TOOLS)) for text in (short, long))
        assert many <= 4.5 * few + 200, name


@every_dialect
def test_long_hostile_texts_are_read_within_the_time_of_a_test(one: Dialect):
    # What a regular expression or a search does in C is counted by no line: a quadratic one does not end in time.
    for _, text in hostile_texts(one.name, 200_000):
        one.parse(text, tools=TOOLS)


pieces = st.sampled_from([*PIECES, *(opening for each in OPENINGS.values() for opening in each)]) | st.text(max_size=5)


@every_dialect
@settings(max_examples=100)
@given(
    st.lists(pieces, max_size=12),
    st.booleans(),
    st.booleans(),
)
def test_no_text_makes_a_reader_raise(one: Dialect, written: list[str], thinking_open: bool, cut: bool):
    for tools in (None, (), TOOLS):
        parsed = one.parse("".join(written), tools=tools, thinking_open=thinking_open, cut=cut)
        assert not (parsed.tool_calls and parsed.error)
        assert (parsed.error is None) == (parsed.reason is None)
        assert not (parsed.tool_calls and cut)
        str(parsed.error).encode()


FORMS = {
    "hermes": '<tool_call>{"name": "f", "arguments": {"v": VALUE}}</tool_call>',
    "xml": "<tool_call>\n<function=f>\n<parameter=v>\nVALUE\n</parameter>\n</function>\n</tool_call>",
    "glm": "<tool_call>f<arg_key>v</arg_key><arg_value>VALUE</arg_value></tool_call>",
    "gemma": "<|tool_call>call:f{v:VALUE}<tool_call|>",
    "harmony": '<|channel|>commentary to=functions.f json<|message|>{"v": VALUE}<|call|>',
    "llama": '{"name": "f", "parameters": {"v": VALUE}}',
    "mistral": '[TOOL_CALLS]f[ARGS]{"v": VALUE}',
    "lfm": "<|tool_call_start|>[f(v=VALUE)]<|tool_call_end|>",
    "lfm-raw": "<|tool_call_start|>[f(v=VALUE)]<|tool_call_end|>",
    "muse": (
        ' to=f<|message|><atem:function_calls>\n<atem:invoke name="f">\n<atem:parameter name="v">VALUE'
        "</atem:parameter>\n</atem:invoke>\n</atem:function_calls><|eot|>"
    ),
    "kimi": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"
        '{"v": VALUE}<|tool_call_end|><|tool_calls_section_end|>'
    ),
    "minimax": (
        '<minimax:tool_call><invoke name="f"><parameter name="v">VALUE</parameter></invoke></minimax:tool_call>'
    ),
    "deepseek-v4": (
        '<｜DSML｜tool_calls><｜DSML｜invoke name="f"><｜DSML｜parameter name="v" string="false">'  # noqa: RUF001
        "VALUE</｜DSML｜parameter></｜DSML｜invoke></｜DSML｜tool_calls>"  # noqa: RUF001
    ),
    "hunyuan": '<tool_calls>[{"name": "f", "arguments": {"v": VALUE}}]</tool_calls>',
    "command": '<|START_ACTION|>[{"tool_name": "f", "parameters": {"v": VALUE}}]<|END_ACTION|>',
    "deepseek": '<｜tool▁call▁begin｜>f<｜tool▁sep｜>{"v": VALUE}<｜tool▁call▁end｜>',  # noqa: RUF001
}
V = (ToolSpec("f", "", {"type": "object", "properties": {"v": {"type": ["integer", "number", "array", "object"]}}}),)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    "value",
    ["9" * (MAX_DIGITS + 1), "1e400", "NaN", "-Infinity", "[" * 200 + "]" * 200, "[" * 100_000, '{"a":' * 5_000],
    ids=["digits", "1e400", "NaN", "-Infinity", "nested", "opened", "objects"],
)  # fmt: skip
def test_values_beyond_the_limits_are_refused(name: str, value: str):
    parsed = dialect(name).parse(FORMS[name].replace("VALUE", value), tools=V)
    assert parsed.tool_calls == ()
    assert parsed.reason in ("too_large", "invalid_json", "invalid_call", "unfinished_call")


@pytest.mark.parametrize("name", FORMS)
def test_values_at_the_limits_are_read(name: str):
    depth = MAX_DEPTH - 1  # the arguments themselves are one level
    for value in ("9" * MAX_DIGITS, "[" * depth + "]" * depth):
        parsed = dialect(name).parse(FORMS[name].replace("VALUE", value), tools=V)
        assert parsed.error is None
        assert len(parsed.tool_calls) == 1


@pytest.mark.parametrize("name", ["hermes", "harmony", "llama", "lfm", "deepseek"])
def test_half_a_surrogate_pair_is_refused_and_a_whole_one_is_read(name: str):
    strings = (ToolSpec("f", "", {"type": "object", "properties": {"v": {"type": "string"}}}),)
    half = dialect(name).parse(FORMS[name].replace("VALUE", '"\\ud83d"'), tools=strings)
    whole = dialect(name).parse(FORMS[name].replace("VALUE", '"\\ud83d\\ude00"'), tools=strings)
    assert half.tool_calls == ()
    assert "lone surrogate" in str(half.error)
    assert whole.tool_calls[0].input == {"v": "😀"}


def test_a_message_makes_only_so_many_calls():
    call = '<tool_call>{"name": "f"}</tool_call>'
    assert len(dialect("hermes").parse(call * MAX_CALLS).tool_calls) == MAX_CALLS
    assert dialect("hermes").parse(call * (MAX_CALLS + 1)).reason == "too_large"


def test_a_message_that_is_too_long_is_not_read():
    assert dialect("plain").parse("x" * (MAX_CHARACTERS + 1)).reason == "too_large"


def test_a_schema_that_refers_to_itself_is_looked_at_once():
    schema: dict[str, Any] = {"$ref": "#/$defs/a"}
    loop = {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}
    root = {"type": "object", "properties": {"v": schema}, "$defs": {"a": loop, "b": loop}, "allOf": [{"$ref": "#"}]}
    parsed = dialect("xml").parse(FORMS["xml"].replace("VALUE", "2"), tools=[ToolSpec("f", "", root)])
    assert parsed.tool_calls[0].input == {"v": 2}
