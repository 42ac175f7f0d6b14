"""Families whose templates TRL does not ship, written as their documentation says."""

from __future__ import annotations

from typing import Any

import pytest

from ors_gym.dialects import dialect, dialect_of
from ors_gym.dialects.proof import PROBES, TOOLS, TemplateRenderer
from ors_gym.trajectory import Reply
from ors_gym.types import ToolCall, ToolSpec
from tests.support.documented_templates import DOCUMENTED, DocumentedTemplate

NAMES = {
    "Command A, Command R7B": "command",
    "DeepSeek V3.1": "deepseek-v3.1",
    "DeepSeek V3.2": "deepseek-v3.2",
    "DeepSeek V4": "deepseek-v4",
    "GLM 4.7, GLM 5": "glm",
    "Granite 4": "hermes",
    "Hunyuan 3": "hunyuan-3",
    "Hunyuan A13B": "hunyuan",
    "Kimi K2": "kimi",
    "MiniMax M1": "minimax-m1",
    "MiniMax M2": "minimax",
    "Mistral Small 3.1 and before": "mistral",
    "Mistral Small 3.2, Magistral": "mistral",
}
every_family = pytest.mark.parametrize("template", DOCUMENTED, ids=lambda template: template.name_or_path)
DSML = '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n{}</｜DSML｜invoke>\n</｜DSML｜tool_calls>'  # noqa: RUF001
VALUE = '<｜DSML｜parameter name="{}" string="{}">{}</｜DSML｜parameter>\n'  # noqa: RUF001
KIMI = "<|tool_calls_section_begin|>{}<|tool_calls_section_end|>"
KIMI_CALL = "<|tool_call_begin|>{}<|tool_call_argument_begin|>{}<|tool_call_end|>"
F = (ToolSpec("f", "", {"type": "object", "properties": {"s": {"type": "string"}, "n": {"type": "integer"}}}),)


@every_family
def test_the_dialect_of_a_family_is_found_by_proof(template: DocumentedTemplate):
    assert dialect_of(template).name == NAMES[template.name_or_path]


@every_family
def test_no_part_of_a_message_makes_a_call_that_the_whole_does_not_make(template: DocumentedTemplate):
    one = dialect_of(template)
    text, _ = TemplateRenderer(template).call(PROBES[0])
    whole = one.parse(text, tools=TOOLS)
    assert whole.tool_calls == (PROBES[0],)
    for end in range(len(text)):
        part = one.parse(text[:end], tools=TOOLS)
        assert part.tool_calls in ((), whole.tool_calls)
        assert part.tool_calls == () or one.parse(text[:end], tools=TOOLS, cut=True).tool_calls == ()


@every_family
def test_several_calls_are_read_in_their_order(template: DocumentedTemplate):
    text, _ = TemplateRenderer(template).call(PROBES[1], PROBES[0], PROBES[-1])
    assert dialect_of(template).parse(text, tools=TOOLS).tool_calls == (PROBES[1], PROBES[0], PROBES[-1])


READ: list[tuple[str, str, dict[str, Any]]] = [
    ("deepseek-v4", DSML.format(VALUE.format("s", "true", "2") + VALUE.format("n", "false", "2")), {"s": "2", "n": 2}),
    ("deepseek-v4", DSML.format(VALUE.format("z", "false", '{"a": [null]}')), {"z": {"a": [None]}}),
    ("kimi", KIMI.format(KIMI_CALL.format("f", '{"s": "x"}')), {"s": "x"}),
    (
        "kimi",
        KIMI.format(KIMI_CALL.format(" functions.f:12 ", '{"s": "<|tool_call_end|>"}')),
        {"s": "<|tool_call_end|>"},
    ),
    ("hunyuan", '<tool_calls>\n{"name": "f", "arguments": {"s": "x"}}\n</tool_calls>', {"s": "x"}),
    ("command", '<|START_ACTION|>{"tool_name": "f", "parameters": {"s": "x"}}<|END_ACTION|>', {"s": "x"}),
    (
        "command",
        '<|START_THINKING|>hm<|END_THINKING|><|START_ACTION|>[{"tool_call_id": "0", "tool_name": "f", "parameters": '
        '{"n": 2}}]<|END_ACTION|><|END_OF_TURN_TOKEN|>',
        {"n": 2},
    ),
    ("minimax", '<minimax:tool_call>\n<invoke name="f">\n</invoke>\n</minimax:tool_call>[e~[', {}),
]


@pytest.mark.parametrize(("name", "text", "arguments"), READ)
def test_one_call_is_meant(name: str, text: str, arguments: dict[str, Any]):
    assert dialect(name).parse(text, tools=F).tool_calls == (ToolCall("f", arguments),)


REFUSED = [
    ("deepseek-v4", DSML.format(VALUE.format("n", "false", "two")), "invalid_json"),
    ("deepseek-v4", DSML.format(VALUE.format("n", "maybe", "2")), "invalid_call"),
    ("deepseek-v4", DSML.format(VALUE.format("n", "false", "2") * 2), "invalid_call"),
    ("minimax", '<minimax:tool_call>\n<invoke name="f">\n<parameter name="s">x</parameter>\n', "unfinished_call"),
    ("minimax", '<minimax:tool_call>\n<invoke name="f">\n</invoke>\n', "unfinished_call"),
    ("minimax", '<invoke name="f">\n</invoke>', "invalid_call"),
    ("kimi", KIMI.format(KIMI_CALL.format("", "{}")), "invalid_call"),
    ("kimi", KIMI.format(KIMI_CALL.format("functions.f:0", "[]")), "invalid_call"),
    ("kimi", KIMI_CALL.format("functions.f:0", "{}"), "invalid_call"),
    ("hunyuan", '<tool_calls>[{"name": "f", "arguments": {}}] x</tool_calls>', "invalid_call"),
    ("hunyuan-3", "<tool_calls:opensource><tool_call:opensource>f</tool_call:opensource>", "invalid_call"),
    ("command", '<|START_ACTION|>[{"name": "f", "arguments": {}}]<|END_ACTION|>', "invalid_call"),
    ("command", '<|START_ACTION|>[{"tool_name": "f", "parameters": {"s": "x', "unfinished_call"),
    (
        "glm",
        "<tool_call>f<arg_key>s</arg_key><arg_value></arg_value>\n<arg_key></arg_value><arg_key>n</arg_key>"
        "<arg_value>1</arg_value></tool_call>",
        "invalid_call",
    ),
]


@pytest.mark.parametrize(("name", "text", "reason"), REFUSED)
def test_no_call_is_made_and_the_model_sees_the_reason(name: str, text: str, reason: str):
    parsed = dialect(name).parse(text, tools=F)
    assert (parsed.tool_calls, parsed.reason) == ((), reason)
    assert dialect(name).form in str(parsed.error)


def test_kimis_ids_are_kept_and_the_marks_of_commands_answer_left_out():
    calls = KIMI_CALL.format("functions.f:0", "{}") + KIMI_CALL.format("functions.f:1", "{}")
    assert [call.id for call in dialect("kimi").parse(KIMI.format(calls)).tool_calls] == [
        "functions.f:0",
        "functions.f:1",
    ]
    answer = "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>Four.<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"
    assert dialect("command").parse(answer) == Reply("Four.", reasoning="hm")
