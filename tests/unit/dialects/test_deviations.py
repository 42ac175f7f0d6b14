"""What models write beside their templates: read where one call can be meant, else refused in words."""

from __future__ import annotations

from typing import Any

import pytest

from ors_gym.dialects import dialect
from ors_gym.types import ToolCall, ToolSpec

TOOLS = (
    ToolSpec(
        "f",
        "",
        {
            "type": "object",
            "properties": {
                "s": {"type": "string"},
                "n": {"type": "integer"},
                "b": {"type": "boolean"},
                "z": {"type": ["string", "null"]},
                "a": {"type": "array"},
            },
        },
    ),
    ToolSpec("look"),
)
F, LOOK = ToolCall("f", {"s": "x"}), ToolCall("look")
CALLS, END_OF_CALLS = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"  # noqa: RUF001
CALL, SEP, END_OF_CALL = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"  # noqa: RUF001


def xml(parameters: str, name: str = "f") -> str:
    return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"


S = "<parameter=s>\nx\n</parameter>\n"
GLM_S = "<arg_key>s</arg_key>\n<arg_value>x</arg_value>\n"
ATEM = '<atem:function_calls>\n<atem:invoke name="f">\n{}</atem:invoke>\n</atem:function_calls>'
ATEM_S = '<atem:parameter name="s">x</atem:parameter>\n'

READ: list[tuple[str, str, tuple[ToolCall, ...]]] = [
    ("hermes", '<tool_call>{"name": "f", "arguments": {"s": "x"}}', (F,)),
    ("hermes", '<tool_call>{"name": "f", "parameters": {"s": "x"}}</tool_call>', (F,)),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"s\\": \\"x\\"}"}</tool_call>', (F,)),
    (
        "hermes",
        '<tool_call>[{"name": "look", "arguments": {}}, {"name": "f", "arguments": {"s": "x"}}]</tool_call>',
        (LOOK, F),
    ),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"s": "a\nb"}}</tool_call>', (ToolCall("f", {"s": "a\nb"}),)),
    ("xml", "<function=f>\n" + S + "</function>\n</tool_call>", (F,)),
    ("xml", "<function=f>\n" + S + "</function>", (F,)),
    ("xml", "<tool_call>\n<function=f>\n" + S + "</function>", (F,)),
    ("xml", xml("<parameter=s>x</parameter>\n"), (F,)),
    (
        "xml",
        xml("<parameter=b>\ntrue\n</parameter>\n<parameter=z>\nnull\n</parameter>\n"),
        (ToolCall("f", {"b": True, "z": None}),),
    ),
    (
        "xml",
        xml("<parameter=b>\nTrue\n</parameter>\n<parameter=z>\nNone\n</parameter>\n"),
        (ToolCall("f", {"b": True, "z": None}),),
    ),
    ("xml", xml("<parameter=n>\n 5 \n</parameter>\n"), (ToolCall("f", {"n": 5}),)),
    ("xml", xml(S) + "\n" + xml("", "look"), (F, LOOK)),
    ("glm", "<tool_call>f<arg_key>s</arg_key><arg_value>x</arg_value></tool_call>", (F,)),
    ("glm", "<tool_call>look</tool_call>", (LOOK,)),
    ("glm", "\n<think></think>\n<tool_call>f\n" + GLM_S + "</tool_call>", (F,)),
    ("gemma", '<|tool_call>call:f{"s":"x"}<tool_call|>', (F,)),
    ("gemma", '<|tool_call>call:f{a:["x", {"k": 1}]}<tool_call|>', (ToolCall("f", {"a": ["x", {"k": 1}]}),)),
    ("gemma", '<|tool_call>call:f{ s: <|"|>x<|"|> }<tool_call|>', (F,)),
    ("harmony", '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"s": "x"}<|call|>', (F,)),
    ("harmony", '<|channel|>analysis to=functions.f code<|message|>{"s": "x"}<|call|>', (F,)),
    (
        "harmony",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"
        ' to=functions.f<|channel|>commentary json<|message|>{"s": "x"}',
        (F,),
    ),
    ("harmony", ' to=functions.f<|channel|>commentary json<|message|>{"s": "x"}<|call|>', (F,)),
    ("lfm", '<|tool_call_start|>[f(s="x", b=true) ]<|tool_call_end|>', (ToolCall("f", {"s": "x", "b": True}),)),
    ("lfm", "<|tool_call_start|>[a.b(k=1)]<|tool_call_end|>", (ToolCall("a.b", {"k": 1}),)),
    (
        "lfm-raw",
        "<|tool_call_start|>[f(s=\"it's\", a=[None, 'x'])]<|tool_call_end|>",
        (ToolCall("f", {"s": "it's", "a": [None, "x"]}),),
    ),
    ("llama", '{"type": "function", "name": "f", "parameters": {"s": "x"}}', (F,)),
    ("llama", '{"name": "f", "arguments": {"s": "x"}}; {"name": "look", "parameters": {}}', (F, LOOK)),
    ("llama", '<|python_tag|>{"name": "f", "parameters": {"s": "x"}}<|eom_id|>', (F,)),
    ("deepseek", f'{CALLS}{CALL}f{SEP}{{"s": "x"}}{END_OF_CALL}{END_OF_CALLS}', (F,)),
    ("deepseek-v3.1", f'{CALLS}{CALL}function{SEP}f\n```json\n{{"s": "x"}}\n```{END_OF_CALL}{END_OF_CALLS}', (F,)),
    ("muse", " to=self<|message|>hm<|eom|><|start|>assistant to=f<|message|>" + ATEM.format(ATEM_S) + "<|eot|>", (F,)),
]

REFUSED: list[tuple[str, str, str, str]] = [
    ("hermes", "<tool_call>{'name': 'f', 'arguments': {'s': 'x'}}</tool_call>", "invalid_json", "double quotes"),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"b": True}}</tool_call>', "invalid_json", "Expecting value"),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"s": "x"}</tool_call>', "invalid_json", "delimiter"),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"s": "x"}}}</tool_call>', "invalid_call", "follows"),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"s": "say "hi""}}</tool_call>', "invalid_json", "delimiter"),
    ("hermes", '<tool_call>{"name": "f", "arguments": {}} {"name": "look"}</tool_call>', "invalid_call", "follows"),
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {}} Now.</tool_call>',
        "invalid_call",
        "'Now.</tool_call>' follows",
    ),
    ("hermes", '<tool_call>{"name": "f", "s": "x"}</tool_call>', "invalid_call", 'no "arguments"'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"s": "x", "s": "y"}}</tool_call>', "invalid_json", "twice"),
    ("hermes", '{"name": "f", "arguments": {"s": "x"}}', "invalid_call", "not enclosed in marks"),
    ("hermes", '```json\n{"name": "f", "arguments": {"s": "x"}}\n```', "invalid_call", "not enclosed in marks"),
    ("hermes", '{"name": "f", "arguments": {"s": "x"}}</tool_call>', "invalid_call", "outside a call"),
    ("xml", "<tool_call>\n<function=f>\n<parameter=s>\nx", "unfinished_call", "does not end with"),
    ("xml", "<tool_call>\n<function=f>\n" + S, "unfinished_call", "followed by <parameter= or </function>"),
    ("xml", xml("<parameter=s>\nx\n"), "unfinished_call", "does not end"),
    ("xml", xml(S + S), "invalid_call", "given twice"),
    ("xml", xml("<parameter=n>\ntwo\n</parameter>\n"), "invalid_call", "'n' must be integer, got 'two'"),
    ("xml", xml("<parameter=a>\n['x']\n</parameter>\n"), "invalid_call", "'a' must be array"),
    ("xml", xml(S) + "\n</parameter>", "invalid_call", "outside a call"),
    ("xml", '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>', "invalid_call", "<function= is missing"),
    ("glm", "<tool_call>f\n" + GLM_S, "unfinished_call", "does not end"),
    ("glm", "<tool_call>f</arg_value></tool_call>", "invalid_call", "<arg_key> is missing"),
    ("glm", '<tool_call>{"name": "f"}</tool_call>', "invalid_call", "expected a tool's name"),
    ("gemma", "<|tool_call>f{}<tool_call|>", "invalid_call", "call: is missing"),
    ("gemma", "call:f{}", "invalid_call", "lacks <|tool_call> before it"),
    ("gemma", "<|tool_call>call:f{s:'x'}<tool_call|>", "invalid_call", "expected a value"),
    ("gemma", "<|tool_call>call:f{s:bare}<tool_call|>", "invalid_call", "expected a value"),
    ("harmony", '<|channel|>commentary<|message|>{"s": "x"}<|call|>', "invalid_call", "names the tool"),
    ("harmony", "<|channel|>commentary to=functions.f<|message|>print(1)<|call|>", "invalid_json", "Expecting value"),
    ("harmony", '<|channel|>commentary to=functions.f json<|message|>{"s": "x"}<|end|>', "invalid_call", "follows"),
    ("harmony", "<|channel|>commentary to=functions.f json", "unfinished_call", "no <|message|> follows"),
    ("harmony", "<|channel|>x<|channel|>final<|message|>hi", "invalid_call", "not a valid message header"),
    ("lfm", "<|tool_call_start|>[f('x')]<|tool_call_end|>", "invalid_call", "expected a keyword argument"),
    ("lfm", "<|tool_call_start|>[f(s=open('x'))]<|tool_call_end|>", "invalid_call", "expected a value"),
    ("lfm", "[f(s='x')]", "invalid_call", "lacks <|tool_call_start|> before it"),
    ("llama", 'I call {"name": "f", "parameters": {"s": "x"}}', "invalid_call", "not enclosed in marks"),
    (
        "deepseek",
        f"{CALLS}{CALL}python{SEP}f\n```json\n{{}}\n```{END_OF_CALL}",
        "invalid_call",
        "expected function",
    ),
    ("muse", " to=f<|message|>" + ATEM.format('<atem:parameter name="s">x'), "unfinished_call", "does not end"),
    ("muse", " to=look<|message|>" + ATEM.format(ATEM_S), "invalid_call", "invokes 'f'"),
    ("muse", " to=user<|message|>" + ATEM.format(ATEM_S), "invalid_call", "with to=NAME"),
]

PLAIN = [
    ("hermes", "The answer is 4.<|im_end|>\n", "The answer is 4."),
    (
        "hermes",
        '{"name": "Ada", "arguments": ["for", "and", "against"]}',
        '{"name": "Ada", "arguments": ["for", "and", "against"]}',
    ),
    ("hermes", "I like <think> tags.", "I like <think> tags."),
    (
        "xml",
        "<function=unknown>\n<parameter=s>\nx\n</parameter>\n</function>",
        "<function=unknown>\n<parameter=s>\nx\n</parameter>\n</function>",
    ),
    ("gemma", "Four.<turn|>", "Four."),
    (
        "harmony",
        "<|channel|>analysis<|message|>2+2<|end|><|start|>assistant<|channel|>final<|message|>Four.<|return|>",
        "Four.",
    ),
    ("harmony", "Four.<|return|>", "Four."),
    ("lfm", "f(x) = [1, 2]", "f(x) = [1, 2]"),
    ("muse", " to=user<|message|>Four.<|eot|>", "Four."),
    ("muse", "Four.<|eot|>", "Four."),
    ("llama", '{"answer": 4}', '{"answer": 4}'),
    ("glm", "\n<think></think>\nFour.", "Four."),
]


@pytest.mark.parametrize(("name", "text", "calls"), READ)
def test_one_call_is_meant(name: str, text: str, calls: tuple[ToolCall, ...]):
    parsed = dialect(name).parse(text, tools=TOOLS)
    assert (parsed.tool_calls, parsed.error, parsed.text) == (calls, None, "")


@pytest.mark.parametrize(("name", "text", "reason", "says"), REFUSED)
def test_no_call_is_made_and_the_model_sees_the_reason(name: str, text: str, reason: str, says: str):
    parsed = dialect(name).parse(text, tools=TOOLS)
    assert parsed.tool_calls == ()
    assert parsed.error is not None
    assert says in parsed.error
    assert dialect(name).form in parsed.error, "the error shows how a call is written"
    assert parsed.reason == reason


@pytest.mark.parametrize(("name", "text", "said"), PLAIN)
def test_a_plain_message_is_text(name: str, text: str, said: str):
    parsed = dialect(name).parse(text, tools=TOOLS)
    assert (parsed.tool_calls, parsed.error, parsed.text) == ((), None, said)


def test_one_unreadable_call_means_that_none_is_made():
    parsed = dialect("xml").parse(xml(S) + xml("<parameter=n>\ntwo\n</parameter>\n"), tools=TOOLS)
    assert (parsed.tool_calls, parsed.reason) == ((), "invalid_call")


THINKING: list[tuple[str, str, dict[str, Any], tuple[ToolCall, ...], str]] = [
    ("hermes", "<think>maybe <tool_call>{}</tool_call>?</think>Four.", {}, (), "Four."),
    ("xml", f"maybe {xml(S)}?\n</think>\n\n{xml('', 'look')}", {"thinking_open": True}, (LOOK,), ""),
    ("xml", f"maybe {xml(S)}?\n</think>\n\nFour.", {"thinking_open": True}, (), "Four."),
    ("xml", f"maybe {xml(S)}?\n</think>\n\n{xml('', 'look')}", {}, (LOOK,), ""),
    (
        "xml",
        xml("<parameter=s>\n<think>\n</think>\n</parameter>\n"),
        {},
        (ToolCall("f", {"s": "<think>\n</think>"}),),
        "",
    ),
    ("glm", "I <think>hm</think> go. <tool_call>look</tool_call>", {}, (LOOK,), "I  go."),
    ("gemma", "<|channel>thought\nhm <|tool_call>call:f{}<tool_call|>\n<channel|>Four.", {}, (), "Four."),
    (
        "harmony",
        '<|channel|>analysis<|message|>{"s": "x"} to f?<|end|><|start|>assistant<|channel|>final<|message|>Four.',
        {},
        (),
        "Four.",
    ),
    (
        "muse",
        " to=self<|message|>" + ATEM.format(ATEM_S) + "<|eom|><|start|>assistant to=user<|message|>Four.<|eot|>",
        {},
        (),
        "Four.",
    ),
    ("mistral", "[THINK]hm [TOOL_CALLS]look[ARGS]{}[/THINK]Four.", {}, (), "Four."),
    ("llama", '<think>hm</think>{"name": "look", "parameters": {}}', {}, (LOOK,), ""),
    ("openai", '<think>hm</think>{"name": "look", "parameters": {}}', {}, (LOOK,), ""),
]


@pytest.mark.parametrize(("name", "text", "known", "calls", "said"), THINKING)
def test_a_call_that_is_only_thought_about_is_not_made(
    name: str, text: str, known: dict[str, Any], calls: tuple[ToolCall, ...], said: str
):
    parsed = dialect(name).parse(text, tools=TOOLS, **known)
    assert (parsed.tool_calls, parsed.error, parsed.text) == (calls, None, said)


@pytest.mark.parametrize(
    ("name", "text", "known"),
    [
        ("hermes", '<think>so <tool_call>{"name": "look"}</tool_call>', {}),
        ("hermes", '<tool_call>{"name": "look"}</tool_call>', {"thinking_open": True}),
        ("hermes", 'First <think>then <tool_call>{"name": "look"}</tool_call>', {}),
        ("xml", xml(S), {"thinking_open": True}),
        ("gemma", "<|channel>thought\n<|tool_call>call:f{}<tool_call|>", {}),
        ("muse", " to=self<|message|>" + ATEM.format(ATEM_S), {}),
        ("harmony", '<|channel|>analysis<|message|>{"s": "x"}', {}),
    ],
)
def test_a_call_within_open_reasoning_is_refused(name: str, text: str, known: dict[str, Any]):
    parsed = dialect(name).parse(text, tools=TOOLS, **known)
    assert (parsed.tool_calls, parsed.reason) == ((), "unclosed_thinking")
    assert "thinking was not closed with" in str(parsed.error)


def test_a_message_that_was_cut_off_makes_no_call():
    text = '<tool_call>{"name": "look"}</tool_call>'
    assert dialect("hermes").parse(text).tool_calls == (LOOK,)
    cut = dialect("hermes").parse(text, cut=True)
    assert (cut.tool_calls, cut.reason) == ((), "unfinished_call")


@pytest.mark.parametrize(
    ("name", "prompt", "is_open"),
    [
        ("xml", "<|im_start|>assistant\n<think>\n", True),
        ("xml", "<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("gemma", "<|turn>model\n<|channel>thought\n", True),
        ("gemma", "<|turn>model\n", False),
    ],
)
def test_the_prompt_says_whether_thinking_is_open(name: str, prompt: str, is_open: bool):
    assert dialect(name).opens_thinking(prompt) is is_open
