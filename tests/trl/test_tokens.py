"""Token-exact conversations, with chat templates of several models' shapes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ors_gym import Message, TextBlock, ToolCall, ToolSpec
from ors_gym.policies.templates import template_tools, to_chat_template
from ors_gym.types import ReasoningBlock, ToolCallBlock, ToolList, ToolResultBlock
from ors_gym_trl import TemplateError
from ors_gym_trl.tokens.conversation import ChatTokenizer
from ors_gym_trl.tokens.record import TokenRecord
from tests.support.chat_templates import QWEN, byte_tokenizer

LLAMA = (
    "<|begin_of_text|>{%- if tools %}{{ tools | tojson }}<|im_end|>{%- endif %}{%- for m in messages %}"
    "<|start_header_id|>{{ 'ipython' if m.role == 'tool' else m.role }}<|end_header_id|>\n\n"
    "{%- if m.tool_calls %}{%- for c in m.tool_calls %}{{ c.function | tojson }}{%- endfor %}"
    "{%- else %}{{ m.content }}{%- endif %}<|im_end|>"
    "{%- endfor %}{%- if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{%- endif %}"
)
MISTRAL = (
    "<s>{%- if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{%- endif %}{%- for m in messages %}"
    "{%- if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    "{%- elif m.role == 'tool' %}[TOOL_RESULTS]{{ {'content': m.content, 'call_id': m.tool_call_id} | tojson }}"
    "[/TOOL_RESULTS]"
    "{%- else %}{{ m.content }}{%- for c in m.tool_calls or [] %}[TOOL_CALLS]{{ c.function | tojson }}{%- endfor %}"
    "<|im_end|>{%- endif %}{%- endfor %}"
)
# Gemma's: the model is called "model", a tool's result is a turn of the user's, and a turn has its own end.
GEMMA = (
    "<bos>{%- if tools %}{{ tools | tojson }}\n{%- endif %}{%- for m in messages %}"
    "{%- if m.role == 'tool' %}<start_of_turn>user\n```tool_output\n{{ m.content }}\n```<|im_end|>\n"
    "{%- else %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "{%- for c in m.tool_calls or [] %}```tool_code\n{{ c.function | tojson }}\n```{%- endfor %}<|im_end|>\n"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}<start_of_turn>model\n{%- endif %}"
)
# A thinking model's: the reasoning of a turn is dropped once the user speaks again, and kept among tool results.
THINKING = (
    "{%- if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{%- endif %}"
    "{%- set ns = namespace(last=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}"
    "{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}"
    "{%- if m.role == 'tool' %}<|im_start|>tool\n{{ m.content }}<|im_end|>\n"
    "{%- else %}<|im_start|>{{ m.role }}\n"
    "{%- if m.reasoning_content and loop.index0 > ns.last %}<think>{{ m.reasoning_content }}</think>{%- endif %}"
    "{{ m.content }}"
    "{%- for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{%- endfor %}<|im_end|>\n"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n{%- endif %}"
)
APPENDING = {"qwen": QWEN, "llama": LLAMA, "mistral": MISTRAL, "gemma": GEMMA, "thinking": THINKING}

# Qwen 3's way: a finished turn loses its reasoning once another message follows it.
REWRITING = (
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n"
    "{%- if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{%- endif %}{{ m.content }}<|im_end|>\n"
    "{%- endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n{%- endif %}"
)

TOOLS = ToolList((ToolSpec("look"), ToolSpec("press", "Press.", {"type": "object", "properties": {"color": {}}})))
PROMPT = (Message("user", (TextBlock("find the button"),)),)


def reply_and_results(calls: list[tuple[str, str]], text: str = "") -> tuple[Message, Message]:
    """A turn with these (name, result) calls, and the message that answers it."""
    blocks = [ToolCallBlock(f"call_0_{i}", name, {"color": "red"}) for i, (name, _) in enumerate(calls)]
    results = [ToolResultBlock(f"call_0_{i}", (TextBlock(result),)) for i, (_, result) in enumerate(calls)]
    said = (TextBlock(text),) if text else ()
    return Message("assistant", (*said, *blocks)), Message("user", tuple(results))


names = st.sampled_from(["look", "press", "web.search", "get-weather"])
words = st.text(st.characters(codec="utf-8", exclude_characters="<|>[]"), max_size=40)


@pytest.mark.parametrize("template", APPENDING.values(), ids=APPENDING.keys())
@settings(max_examples=60, deadline=None)
@given(calls=st.lists(st.tuples(names, words), min_size=1, max_size=3), text=words)
def test_the_ids_between_turns_continue_the_template_exactly(template: str, calls: list[tuple[str, str]], text: str):
    tokenizer = byte_tokenizer(template)
    reply, results = reply_and_results(calls, text)
    before = tokenizer.apply_chat_template(
        to_chat_template([*PROMPT, reply]), tools=template_tools(TOOLS), tokenize=False
    )
    before = before[: before.rindex("<|im_end|>") + len("<|im_end|>")]
    whole = tokenizer.apply_chat_template(
        to_chat_template([*PROMPT, reply, results]),
        tools=template_tools(TOOLS),
        tokenize=False,
        add_generation_prompt=True,
    )

    between = ChatTokenizer(tokenizer).between(reply, [results], TOOLS).ids

    assert tokenizer.decode(tokenizer(before)["input_ids"] + between) == whole


@pytest.mark.parametrize("template", APPENDING.values(), ids=APPENDING.keys())
def test_an_error_for_the_model_is_put_between_turns_as_a_user_message(template: str):
    tokenizer = byte_tokenizer(template)
    reply = Message("assistant", (TextBlock("<tool_call>{"),))

    between = ChatTokenizer(tokenizer).between(reply, [Message("user", (TextBlock("unreadable"),))], TOOLS).ids

    assert "unreadable" in tokenizer.decode(between)
    assert "<tool_call>{" not in tokenizer.decode(between)


@pytest.mark.parametrize("template", APPENDING.values(), ids=APPENDING.keys())
def test_a_prompt_is_rendered_as_the_template_renders_it(template: str):
    tokenizer = byte_tokenizer(template)
    expected = tokenizer.apply_chat_template(
        [{"role": "user", "content": "find the button"}],
        tools=template_tools(TOOLS),
        add_generation_prompt=True,
        return_dict=False,
    )

    assert ChatTokenizer(tokenizer).prompt(PROMPT, TOOLS).ids == expected


@pytest.mark.parametrize("following", ["tool results", "a message"])
@pytest.mark.parametrize("template", APPENDING.values(), ids=APPENDING.keys())
def test_reasoning_stays_as_it_was_sampled(template: str, following: str):
    tokenizer = byte_tokenizer(template)
    chat = ChatTokenizer(tokenizer)
    thought = ReasoningBlock("look first")
    calling, results = reply_and_results([("look", "red")])
    spoken, answer = Message("assistant", (TextBlock("hm"),)), Message("user", (TextBlock("no"),))
    reply, then = (calling, results) if following == "tool results" else (spoken, answer)

    thinking = chat.between(Message("assistant", (thought, *reply.blocks)), [then], TOOLS)

    assert thinking == chat.between(reply, [then], TOOLS)
    assert "look first" not in tokenizer.decode(thinking.ids)


def test_a_template_that_rewrites_finished_turns_is_refused_with_what_to_do():
    with pytest.raises(TemplateError, match="get_training_chat_template"):
        ChatTokenizer(byte_tokenizer(REWRITING))


def test_a_template_that_does_not_show_the_tools_is_refused():
    hiding = byte_tokenizer(QWEN.replace("{{ tools | tojson }}", ""))

    with pytest.raises(TemplateError, match="look, press missing"):
        ChatTokenizer(hiding).prompt(PROMPT, TOOLS)


def test_a_template_without_a_place_for_tool_results_serves_conversations_without_tools():
    strict = QWEN.replace(
        "{%- if m.role == 'tool' %}", "{%- if m.role == 'tool' %}{{ raise_exception('no tools here') }}"
    )
    chat = ChatTokenizer(byte_tokenizer(strict))
    reply, results = reply_and_results([("look", "red")])

    assert chat.between(Message("assistant", (TextBlock("hm"),)), [Message("user", (TextBlock("no"),))], ToolList())
    with pytest.raises(TemplateError, match="no tools here"):
        chat.between(reply, [results], TOOLS)


def test_a_tokenizer_without_a_chat_template_is_refused():
    with pytest.raises(TemplateError, match="no chat template"):
        ChatTokenizer(byte_tokenizer(None))


def test_schemas_reach_the_template_whole():
    schema = {
        "type": "object",
        "properties": {
            "color": {"enum": ["red", "blue"]},
            "times": {"type": "integer", "minimum": 1, "maximum": 3},
            "where": {"$ref": "#/$defs/Place"},
        },
        "required": ["color"],
        "$defs": {"Place": {"type": "object", "properties": {"floor": {"type": "integer"}}}},
    }

    [tool] = template_tools(ToolList((ToolSpec("web.search", "Search.", schema),)))

    assert tool["function"] == {"name": "web.search", "description": "Search.", "parameters": schema}


def test_no_tools_are_none_because_templates_render_an_empty_list_as_tools():
    assert template_tools(ToolList()) is None


def test_a_tool_result_names_its_tool_and_its_call():
    reply, results = reply_and_results([("look", "red"), ("press", "ok")])

    chat = to_chat_template([*PROMPT, reply, results])

    assert [message["role"] for message in chat] == ["user", "assistant", "tool", "tool"]
    assert [(m["name"], m["tool_call_id"], m["content"]) for m in chat[2:]] == [
        ("look", "call_0_0", "red"),
        ("press", "call_0_1", "ok"),
    ]


spans = st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 99), min_size=1, max_size=5)), min_size=0, max_size=6)


@given(prompt=st.lists(st.integers(0, 99), min_size=1, max_size=5), spans=spans)
def test_a_record_holds_what_was_sampled_and_what_was_added_in_order(
    prompt: list[int], spans: list[tuple[bool, list[int]]]
):
    record = TokenRecord(prompt)
    for sampled, ids in spans:
        if sampled:
            record.add_sampled(ids, [-0.5] * len(ids))
        else:
            record.add_environment(ids)

    assert record.ids == prompt + [token for _, ids in spans for token in ids]
    assert record.mask == [int(sampled) for sampled, ids in spans for _ in ids]
    assert record.logprobs == [-0.5 if sampled else 0.0 for sampled, ids in spans for _ in ids]

    record.drop_trailing_environment()

    assert len(record.completion_ids) == len(record.mask) == len(record.logprobs)
    assert not record.mask or record.mask[-1] == 1
    assert sum(record.mask) == sum(len(ids) for sampled, ids in spans if sampled)


def test_every_sampled_token_needs_its_log_probability():
    with pytest.raises(ValueError, match="2 sampled tokens came with 1"):
        TokenRecord([1]).add_sampled([1, 2], [-0.1])


def test_a_turn_is_read_without_its_end():
    tokenizer = byte_tokenizer(QWEN)
    chat = ChatTokenizer(tokenizer)

    assert (
        chat.decode_turn(tokenizer("<tool_call>ab</tool_call><|im_end|>")["input_ids"]) == "<tool_call>ab</tool_call>"
    )
    assert ToolCall("look").input == {}
