"""Every chat template that TRL ships: which dialect it teaches, and what is read back of what it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ors_gym.dialects import DIALECTS, UnknownDialectError, dialect, dialect_of
from ors_gym.dialects.proof import PROBES, TOOLS, TemplateRenderer
from ors_gym.types import ToolCall, ToolSpec
from tests.support.chat_templates import QWEN, byte_tokenizer
from tests.support.dialect_table import DOCUMENT, FOLDER, RenderedTemplate, document, written

SHELL = ToolSpec("sh", "runs it", {"type": "object", "properties": {"s": {"type": "string"}, "n": {"type": "integer"}}})
ONE_OF_EACH = (
    *("qwen3", "qwen3_5_think", "qwen3_6", "nemotron_3_nano", "glm4moe", "gemma4", "gemma4_v5", "gptoss"),
    *("llama3_1", "deepseekv3", "lfm2_v2", "lfm2_2_5", "muse_glimmer"),
)


def template(name: str) -> RenderedTemplate:
    return RenderedTemplate((FOLDER / f"{name}.jinja").read_text(), name)


def test_the_table_in_the_docs_is_what_is_read_back():
    assert document() == Path(DOCUMENT).read_text()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_prefix_of_a_message_never_makes_another_call(name: str):
    one = dialect_of(template(name))
    for call in (
        ToolCall("sh", {"s": "rm -r build/tmp", "n": 12}),
        ToolCall("sh", {"s": "it's (\"a\", 'b'), [x]\n{y}\n", "n": 1}),
        ToolCall("sh", {}),
    ):
        text, thinking_open = written(template(name), call, SHELL)
        whole = one.parse(text, tools=[SHELL], thinking_open=thinking_open)
        assert whole.tool_calls == (call,)
        for end in range(len(text)):
            part = one.parse(text[:end], tools=[SHELL], thinking_open=thinking_open)
            assert part.tool_calls in ((), (call,)), text[:end]
            assert one.parse(text[:end], tools=[SHELL], thinking_open=thinking_open, cut=True).tool_calls == ()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_call_in_open_thinking_is_not_made(name: str):
    one = dialect_of(template(name))
    text = TemplateRenderer(template(name)).call(PROBES[0])[0].rpartition("</think>")[2]

    thought = one.parse("I could write " + text, tools=TOOLS, thinking_open=True)

    # Harmony and Muse end a thought where the next message begins: theirs is closed by the call's own header.
    assert thought.tool_calls == () or one.name in ("harmony", "muse")
    assert thought.reasoning


@pytest.mark.parametrize("name", [name for name in ONE_OF_EACH if name not in ("llama3_1", "gptoss")])
def test_several_calls_are_read_in_their_order(name: str):
    text, thinking_open = TemplateRenderer(template(name)).call(PROBES[0], PROBES[-1], PROBES[0])

    parsed = dialect_of(template(name)).parse(text, tools=TOOLS, thinking_open=thinking_open)

    assert parsed.tool_calls == (PROBES[0], PROBES[-1], PROBES[0])


def test_the_template_of_a_transformers_tokenizer_is_used():
    assert dialect_of(byte_tokenizer(QWEN)).name == "hermes"
    assert dialect_of(byte_tokenizer((FOLDER / "qwen3_5_think.jinja").read_text())).name == "xml"


@pytest.mark.parametrize("name", sorted(DIALECTS.keys() - {"hermes", "smollm"}))
def test_a_named_dialect_that_cannot_read_the_template_is_refused(name: str):
    with pytest.raises(UnknownDialectError, match="cannot read the output of the chat template"):
        dialect_of(template("qwen3"), name)


def test_a_named_dialect_that_reads_the_template_is_taken():
    assert dialect_of(template("qwen3"), "hermes") is dialect("hermes")
