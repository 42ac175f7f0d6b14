"""The dialect of a chat template is the one that reads back what the template writes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ors_gym.dialects import Dialect, Reading, UnknownDialectError, dialect, dialect_of
from ors_gym.trajectory import Reply
from ors_gym.types import ToolCall


class Template:
    """A tokenizer's chat template, written as a function of one call's name and arguments."""

    name_or_path = "org/model"
    chat_template = "…"

    def __init__(self, call: Any, opens: str = "") -> None:
        self._call = call
        self._opens = opens

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> str:
        text = f"tools: {json.dumps(options['tools'])}\n"
        for message in conversation:
            calls = message.get("tool_calls", ())
            made = "".join(self._call(one["function"]["name"], one["function"]["arguments"]) for one in calls)
            closing = self._opens.strip().replace("<", "</").replace("[", "[/")
            thought = f"{self._opens}\n{closing}\n" if self._opens and calls else ""
            text += f"<|im_start|>{message['role']}\n{thought}{message['content']}{made}<|im_end|>\n"
        return text + (f"<|im_start|>assistant\n{self._opens}" if options["add_generation_prompt"] else "")


def hermes(name: str, arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}</tool_call>"


def smollm(name: str, arguments: Any) -> str:
    return f"<tool_call>[{json.dumps({'name': name, 'arguments': arguments})}]</tool_call>"


def deepseek(name: str, arguments: Any) -> str:
    begin, sep, end = ("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>")  # noqa: RUF001
    return f"{begin}{name}{sep}{json.dumps(arguments)}{end}"


def mistral(name: str, arguments: Any) -> str:
    return f"[TOOL_CALLS]{name}[ARGS]{json.dumps(arguments)}"


PLAIN = ((hermes, "hermes"), (smollm, "smollm"), (deepseek, "deepseek-v3.1"))


def shouted(name: str, arguments: Any) -> str:
    return f"CALL {name} {json.dumps(arguments)}!"


@pytest.mark.parametrize(
    ("write", "name", "opens"),
    [
        *((write, name, opens) for write, name in PLAIN for opens in ("", "<think>\n")),
        (mistral, "mistral", ""),
        (mistral, "mistral", "[THINK]\n"),
    ],
)
def test_the_dialect_that_reads_the_probes_is_chosen(write: Any, name: str, opens: str):
    assert dialect_of(Template(write, opens)).name == name


def test_a_template_that_takes_arguments_as_text_is_proven_too():
    def write(name: str, arguments: Any) -> str:
        return f'<tool_call>{{"name": "{name}", "arguments": ' + arguments + "}</tool_call>"

    assert dialect_of(Template(write)).name == "hermes"


def test_an_unknown_way_of_writing_is_refused_with_what_was_rendered():
    with pytest.raises(UnknownDialectError) as refused:
        dialect_of(Template(lambda name, arguments: f"run({name}, {json.dumps(arguments)})"))
    for said in ("org/model", "run(write_file", "Set tokenizer.chat_template", "Dialect of your own"):
        assert said in str(refused.value)


def test_a_template_that_loses_an_argument_is_refused():
    def lossy(name: str, arguments: Any) -> str:
        return hermes(
            name, {key: value.strip() if isinstance(value, str) else value for key, value in arguments.items()}
        )

    with pytest.raises(UnknownDialectError, match="none of"):
        dialect_of(Template(lossy))


def test_a_template_without_calls_is_refused():
    with pytest.raises(UnknownDialectError, match="renders no tool calls"):
        dialect_of(Template(lambda name, arguments: ""))


def test_a_tokenizer_without_a_template_is_refused():
    template = Template(hermes)
    template.chat_template = ""
    with pytest.raises(UnknownDialectError, match="no chat template"):
        dialect_of(template)


def test_a_named_dialect_must_read_the_template():
    with pytest.raises(UnknownDialectError, match="xml cannot read"):
        dialect_of(Template(hermes), "xml")
    with pytest.raises(ValueError, match="unknown dialect 'gpt'; choose one of command"):
        dialect_of(Template(hermes), "gpt")


class Shouted(Dialect):
    """A dialect of one's own."""

    name = "shouted"
    form = "CALL name {…}!"

    def read(self, reading: Reading, thinking_open: bool) -> None:
        for line in filter(None, reading.text.split("CALL ")):
            name, _, arguments = line.partition(" ")
            reading.add(ToolCall(name, json.loads(arguments.rstrip("!"))))


def test_a_dialect_of_ones_own_is_proven_like_any():
    own = Shouted()
    assert dialect_of(Template(shouted), own) is own
    assert dialect(own) is own
    assert own.parse('CALL look {"at": 1}!') == Reply(tool_calls=(ToolCall("look", {"at": 1}),))
    with pytest.raises(UnknownDialectError, match="shouted cannot read"):
        dialect_of(Template(hermes), own)
