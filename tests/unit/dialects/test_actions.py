"""What models write becomes tool calls, or a named failure in words for the model."""

from __future__ import annotations

import json
import pickle
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ors_gym.dialects import dialect, read_action, tool_call
from ors_gym.trajectory import Reply
from ors_gym.types import ToolCall

GUESS = ToolCall("guess", {"word": "crane"})
LOOK = ToolCall("look")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
inputs = st.dictionaries(st.text(), json_values, max_size=4)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
calls = st.lists(st.builds(ToolCall, names, inputs), min_size=1, max_size=3)


def arguments(call: ToolCall, word: str = "arguments") -> dict[str, object]:
    return {"name": call.name, word: dict(call.input)}


class TestHermes:
    parser = dialect("hermes")

    def test_text_around_a_call_is_kept_apart_from_it(self):
        parsed = self.parser.parse(
            'I try.\n<tool_call>\n{"name": "guess", "arguments": {"word": "crane"}}\n</tool_call>'
        )
        assert parsed == Reply("I try.", (GUESS,))

    def test_several_calls_keep_their_order(self):
        guess = '<tool_call>{"name": "guess", "arguments": {"word": "crane"}}</tool_call>'
        text = f'<tool_call>{{"name": "look"}}</tool_call> then {guess}'
        assert self.parser.parse(text) == Reply("then", (LOOK, GUESS))

    def test_a_plain_message_has_no_calls_and_no_error(self):
        assert self.parser.parse("The answer is 4.") == Reply("The answer is 4.")

    def test_the_closing_tag_may_have_been_the_stop_string(self):
        assert self.parser.parse('<tool_call>{"name": "look", "arguments": {}}').tool_calls == (LOOK,)

    def test_stop_tokens_at_the_end_are_not_text(self):
        assert self.parser.parse("Four.<|im_end|>\n") == Reply("Four.")

    def test_arguments_may_hold_the_tags_themselves(self):
        call = ToolCall("write", {"text": "<tool_call></tool_call>"})
        assert self.parser.parse(f"<tool_call>{json.dumps(arguments(call))}</tool_call>").tool_calls == (call,)

    def test_line_breaks_inside_strings_are_read_as_meant(self):
        text = '<tool_call>{"name": "run", "arguments": {"code": "a = 1\nb = 2"}}</tool_call>'
        assert self.parser.parse(text).tool_calls == (ToolCall("run", {"code": "a = 1\nb = 2"}),)

    def test_a_call_that_is_only_thought_about_is_not_made(self):
        text = '<think>maybe <tool_call>{"name": "quit"}</tool_call>?</think><tool_call>{"name": "look"}</tool_call>'
        parsed = self.parser.parse(text)
        assert parsed.tool_calls == (LOOK,)
        assert parsed.reasoning == 'maybe <tool_call>{"name": "quit"}</tool_call>?'

    def test_reasoning_whose_opening_tag_stood_in_the_prompt_is_set_apart(self):
        assert self.parser.parse("hm\n</think>\n\nFour.") == Reply("Four.", reasoning="hm")

    def test_the_end_of_reasoning_inside_an_argument_is_not_one(self):
        call = ToolCall("write", {"text": "<think>\n</think>\n"})
        assert self.parser.parse(f"<tool_call>{json.dumps(arguments(call))}</tool_call>").tool_calls == (call,)

    def test_unclosed_reasoning_is_not_a_message(self):
        parsed = self.parser.parse("<think>if only")
        assert (parsed.text, parsed.reasoning, parsed.reason) == ("", "if only", "unclosed_thinking")

    @pytest.mark.parametrize(
        ("body", "reason", "says"),
        [
            ('{"name": "guess", "arguments": {"word": crane}}', "invalid_json", "Expecting value"),
            ('{"name": "guess", "arguments": {"word": "cra', "unfinished_call", "ends within"),
            ('{"name": "guess", "arguments": ["crane"]}', "invalid_call", "must be a JSON object, not list"),
            ('{"name": "guess", "arguments": 3}', "invalid_call", "must be a JSON object, not int"),
            ('{"name": "guess", "arguments": "crane"}', "invalid_json", "Expecting value"),
            ('{"name": "guess", "arguments": "[1]"}', "invalid_call", "must be a JSON object, not list"),
            ('{"arguments": {}}', "invalid_call", 'no "name"'),
            ('{"name": 3, "arguments": {}}', "invalid_call", 'no "name"'),
            ('["guess"]', "invalid_call", "not str"),
            ('{"name": "look"}}', "invalid_call", "follows"),
            ('{"name": "guess", "arguments": {"n": NaN}}', "invalid_json", "NaN is not JSON"),
            ("[" * 100_000, "too_large", "nested too deeply"),
        ],
    )
    def test_a_call_that_cannot_be_read_is_named_and_explained(self, body, reason, says):
        parsed = self.parser.parse(f"<tool_call>{body}" + ("" if reason == "unfinished_call" else "</tool_call>"))
        assert (parsed.tool_calls, parsed.reason) == ((), reason)
        assert says in parsed.error
        assert "<tool_call>" in parsed.error, "the error shows the form a call should have"

    def test_one_unreadable_call_means_that_none_is_made(self):
        parsed = self.parser.parse('<tool_call>{"name": "look"}</tool_call><tool_call>{"name": }</tool_call>')
        assert (parsed.tool_calls, parsed.reason) == ((), "invalid_json")

    @given(calls)
    def test_what_was_written_is_what_is_read(self, made):
        text = "\n".join(f"<tool_call>\n{json.dumps(arguments(call))}\n</tool_call>" for call in made)
        assert self.parser.parse(text).tool_calls == tuple(made)


class TestLlama:
    parser = dialect("llama")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ('{"name": "guess", "parameters": {"word": "crane"}}', (GUESS,)),
            ('<|python_tag|>{"name": "guess", "parameters": {"word": "crane"}}<|eom_id|>', (GUESS,)),
            ('{"name": "look", "parameters": {}}; {"name": "guess", "parameters": {"word": "crane"}}', (LOOK, GUESS)),
            ('{"type": "function", "name": "look", "parameters": {}}', (LOOK,)),
            ('<function=guess>{"word": "crane"}</function><|eot_id|>', (GUESS,)),
            ('[look(), guess(word="crane")]', (LOOK, GUESS)),
            ("<|python_start|>[guess(word='crane')]<|python_end|><|eot|>", (GUESS,)),
            (
                "[files.read(paths=['a', 'b'], deep=True)]",
                (ToolCall("files.read", {"paths": ["a", "b"], "deep": True}),),
            ),
        ],
    )
    def test_its_forms_are_read(self, text, expected):
        assert self.parser.parse(text) == Reply("", expected)

    @pytest.mark.parametrize("text", ['{"answer": 4}', "[1, 2]", "The answer is 4.", "f(x) = 2"])
    def test_an_answer_that_only_resembles_a_call_is_plain(self, text):
        assert self.parser.parse(text) == Reply(text)

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ('<|python_tag|>{"nome": "look"}', "invalid_call"),
            ('{"name": "look", "parameters": {', "unfinished_call"),
            ("[guess('crane')]", "invalid_call"),
            ("[guess(word=open('x'))]", "invalid_call"),
            ("[guess(word={1})]", "invalid_call"),
            ("[guess(word='crane'", "unfinished_call"),
        ],
    )
    def test_a_call_that_cannot_be_read_is_named(self, text, reason):
        assert self.parser.parse(text).reason == reason

    @given(calls)
    def test_what_was_written_is_what_is_read(self, made):
        text = "; ".join(json.dumps(arguments(call, "parameters")) for call in made)
        assert self.parser.parse(text).tool_calls == tuple(made)


class TestMistral:
    parser = dialect("mistral")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ('[TOOL_CALLS] [{"name": "guess", "arguments": {"word": "crane"}}, {"name": "look"}]</s>', (GUESS, LOOK)),
            ('[TOOL_CALLS]guess[ARGS]{"word": "crane"}[TOOL_CALLS]look[ARGS]{}', (GUESS, LOOK)),
            ('[TOOL_CALLS]guess[CALL_ID]a1b2c3[ARGS]{"word": "crane"}', (GUESS,)),
            ('[TOOL_CALLS]guess{"word": "crane"}', (GUESS,)),
            ('[{"name": "guess", "arguments": {"word": "crane"}}]', (GUESS,)),
        ],
    )
    def test_its_forms_are_read(self, text, expected):
        assert self.parser.parse(text) == Reply("", expected)

    def test_text_before_the_marker_is_kept(self):
        assert self.parser.parse("So: [TOOL_CALLS]look[ARGS]{}") == Reply("So:", (LOOK,))

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ('[TOOL_CALLS][{"name": "look"', "unfinished_call"),
            ("[TOOL_CALLS]", "unfinished_call"),
            ("[TOOL_CALLS]look[ARGS]4", "invalid_call"),
            ("[TOOL_CALLS]look[ARGS]{4}", "invalid_json"),
        ],
    )
    def test_a_call_that_cannot_be_read_is_named(self, text, reason):
        assert self.parser.parse(text).reason == reason

    @given(calls)
    def test_what_was_written_is_what_is_read(self, made):
        array = "[TOOL_CALLS]" + json.dumps([arguments(call) for call in made])
        named = "".join(f"[TOOL_CALLS]{call.name}[ARGS]{json.dumps(dict(call.input))}" for call in made)
        assert self.parser.parse(array).tool_calls == self.parser.parse(named).tool_calls == tuple(made)


WIRE = {"id": "call_1", "type": "function", "function": {"name": "guess", "arguments": '{"word": "crane"}'}}


class TestOpenAI:
    parser = dialect("openai")

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (WIRE, ""),
            ([WIRE], ""),
            ({"tool_calls": [WIRE]}, ""),
            ({"role": "assistant", "content": "I try.", "tool_calls": [WIRE]}, "I try."),
            ({"role": "assistant", "content": None, "tool_calls": [WIRE]}, ""),
        ],
    )
    def test_a_message_its_calls_and_one_call_are_read(self, value, text):
        assert self.parser.parse(json.dumps(value)) == Reply(text, (GUESS,))

    def test_a_message_without_calls_is_plain(self):
        assert self.parser.parse('{"role": "assistant", "content": "Four."}') == Reply("Four.")
        assert self.parser.parse("Four.") == Reply("Four.")

    def test_a_client_librarys_objects_are_read(self):
        function = SimpleNamespace(name="guess", arguments='{"word": "crane"}')
        assert tool_call(SimpleNamespace(id="call_1", type="function", function=function)) == GUESS

    def test_empty_arguments_are_no_arguments(self):
        assert tool_call({"function": {"name": "look", "arguments": ""}}) == LOOK


@given(st.text(), st.sampled_from(["hermes", "llama", "mistral", "openai", "plain"]))
def test_no_text_makes_a_parser_raise(text, name):
    for prefix in ("", "<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "[f(", '{"name":'):
        parsed = dialect(name).parse(prefix + text)
        assert not (parsed.tool_calls and parsed.error)
        assert (parsed.error is None) == (parsed.reason is None)


class TestReadAction:
    parser = dialect("hermes")

    @pytest.mark.parametrize(
        "action",
        [
            GUESS,
            {"role": "assistant", "content": None, "tool_calls": [WIRE]},
            SimpleNamespace(
                content=None, tool_calls=[SimpleNamespace(id="1", function=SimpleNamespace(**WIRE["function"]))]
            ),
            {"name": "guess", "input": {"word": "crane"}},
            {"name": "guess", "arguments": '{"word": "crane"}'},
            '<tool_call>{"name": "guess", "arguments": {"word": "crane"}}</tool_call>',
        ],
    )
    def test_calls_mappings_and_text_are_the_same_action(self, action):
        assert read_action(action, self.parser).tool_calls == (GUESS,)

    def test_plain_text_is_a_message_where_the_environment_takes_one(self):
        parsed = read_action("<think>2+2</think>Four.", self.parser, takes_plain_text=True)
        assert (parsed.text, parsed.reasoning, parsed.tool_calls, parsed.error) == ("Four.", "2+2", (), None)

    def test_plain_text_without_a_terminal_tool_is_a_named_failure(self):
        parsed = read_action("Four.", self.parser)
        assert (parsed.tool_calls, parsed.reason, parsed.text) == ((), "no_tool_call", "Four.")

    def test_an_unreadable_call_is_not_a_plain_message(self):
        parsed = read_action("<tool_call>{</tool_call>", self.parser, takes_plain_text=True)
        assert (parsed.tool_calls, parsed.reason) == ((), "invalid_json")

    def test_the_id_of_a_call_is_kept(self):
        function = {"name": "guess", "arguments": '{"word": "crane"}'}
        (call,) = read_action({"id": "x9AB", "type": "function", "function": function}, self.parser).tool_calls
        assert (call, call.id) == (GUESS, "x9AB")

    def test_a_message_of_chat_completions_without_calls_is_plain_text(self):
        message = {"role": "assistant", "content": "Four."}
        assert read_action(message, self.parser, takes_plain_text=True) == Reply("Four.")
        assert read_action(message, self.parser).reason == "no_tool_call"

    def test_a_mapping_without_a_name_is_a_named_failure(self):
        assert read_action({"input": {}}, self.parser).reason == "invalid_call"

    def test_the_callers_mapping_is_left_as_it_was(self):
        action = {"name": "guess", "input": {"word": "crane"}}
        read_action(action, self.parser)
        assert action == {"name": "guess", "input": {"word": "crane"}}

    def test_another_type_is_the_programmers_mistake(self):
        with pytest.raises(TypeError, match="not int"):
            read_action(3, self.parser)


def test_what_was_read_survives_pickling():
    parsed = dialect("hermes").parse('<tool_call>{"name": "look"}</tool_call>')
    assert pickle.loads(pickle.dumps(parsed)) == parsed
