"""Conversations in providers' forms and back, and what a policy may answer with."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from ors_gym import Reply, TaskRef, ToolCall
from ors_gym.policies.asking import ask, reply_of
from ors_gym.policies.conversations import (
    from_anthropic,
    from_google,
    from_openai,
    to_anthropic,
    to_chat_template,
    to_google,
    to_openai,
)
from ors_gym.policies.policy import Turn
from ors_gym.types import ImageBlock, Message, TextBlock, ToolCallBlock, ToolList, ToolResultBlock

PIXEL = ImageBlock("iVBORw0KGgo=", "image/png")
LOOK, PRESS = ToolCallBlock("a", "look", {}), ToolCallBlock("b", "press", {"n": 1})
RED, NO = ToolResultBlock("a", (TextBlock("red"),)), ToolResultBlock("b", (TextBlock("no"),))
CONVERSATION = (
    Message("system", (TextBlock("You press buttons."),)),
    Message("user", (TextBlock("Which one?"), PIXEL)),
    Message("assistant", (TextBlock("Let me see."), LOOK, PRESS)),
    Message("user", (RED, NO, TextBlock("Go on."))),
    Message("assistant", (TextBlock("It is red."),)),
)
TURN = Turn("e", TaskRef("env", "test", 0), CONVERSATION[:2], ToolList())


def test_chat_completions_come_back_as_they_went():
    wire = to_openai(CONVERSATION)

    assert [message["role"] for message in wire] == ["system", "user", "assistant", "tool", "tool", "user", "assistant"]
    assert from_openai(wire) == CONVERSATION


def test_anthropics_messages_come_back_as_they_went():
    wire = to_anthropic(CONVERSATION)

    assert set(wire) == {"system", "messages"}
    assert from_anthropic(**wire) == CONVERSATION


def test_an_error_and_an_image_of_a_result_stay_where_there_is_a_place_for_them():
    results = Message("user", (ToolResultBlock("a", (TextBlock("broken"), PIXEL), is_error=True),))
    begun = (*CONVERSATION[:2], Message("assistant", (ToolCallBlock("a", "look", {}),)), results)

    assert from_anthropic(**to_anthropic(begun)) == begun
    [*_, read] = from_google(to_google(begun)["contents"])
    assert read.blocks[0].is_error
    assert read.blocks[0].blocks == results.blocks[0].blocks


def test_googles_contents_come_back_with_ids_for_their_calls():
    wire = to_google(CONVERSATION)

    read = from_google(wire["contents"], wire["systemInstruction"])

    [first, second] = read[2].tool_calls
    assert [(call.name, dict(call.input)) for call in (first, second)] == [("look", {}), ("press", {"n": 1})]
    assert [block.tool_call_id for block in read[3].blocks[:2]] == [first.id, second.id]
    assert [message.text for message in read] == [message.text for message in CONVERSATION]


def test_chat_templates_get_the_names_of_results_and_arguments_as_objects():
    chat = to_chat_template(CONVERSATION)

    assert chat[2]["tool_calls"][1]["function"] == {"name": "press", "arguments": {"n": 1}}
    assert [message.get("name") for message in chat if message["role"] == "tool"] == ["look", "press"]
    assert from_openai([message for message in chat if message["role"] != "user"])[1].tool_calls[1].input == {"n": 1}


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "narrator", "content": "Once"}], "no role 'narrator'"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}], "data URL"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "unsupported part of type .input_audio."),
        (["hello"], "got str"),
    ],
)
def test_what_has_no_counterpart_is_refused(messages, words):
    with pytest.raises(ValueError, match=words):
        from_openai(messages)


CALL = ToolCall("press", {"n": 1})
MESSAGE = {
    "role": "assistant",
    "content": "Here.",
    "tool_calls": [{"id": "x", "type": "function", "function": {"name": "press", "arguments": '{"n": 1}'}}],
}
FUNCTION = SimpleNamespace(name="press", arguments='{"n": 1}')
OBJECT = SimpleNamespace(content="Here.", tool_calls=[SimpleNamespace(id="x", function=FUNCTION)])


@dataclass
class Says:
    answer: object

    def act(self, turn: Turn) -> object:
        return self.answer


@dataclass
class SaysLater(Says):
    async def act(self, turn: Turn) -> object:
        return self.answer


@pytest.mark.parametrize("kind", [Says, SaysLater])
@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (Reply("hm", (CALL,)), Reply("hm", (CALL,))),
        (CALL, Reply(tool_calls=(CALL,))),
        ([CALL, CALL], Reply(tool_calls=(CALL, CALL))),
        ("It is red.", Reply("It is red.")),
        (MESSAGE, Reply("Here.", (CALL,))),
        (OBJECT, Reply("Here.", (CALL,))),
    ],
)
def test_a_policy_answers_at_once_or_later_in_any_usual_form(kind, answer, reply):
    assert asyncio.run(ask(kind(answer), TURN)) == reply


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, r"Says.act returned None \(is there a return statement\?\)\. Return a Reply, a ToolCall"),
        (7, "an object of type int"),
        ([], "an object of type list"),
        (SimpleNamespace(choices=[]), r"its message is answer.choices\[0\].message"),
    ],
)
def test_another_answer_is_refused(answer, words):
    with pytest.raises(TypeError, match=words):
        asyncio.run(ask(Says(answer), TURN))
    with pytest.raises(TypeError, match="the policy returned"):
        reply_of(answer)
