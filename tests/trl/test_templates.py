"""Exact tokens with the chat templates of real models, as TRL ships them. Run it to print what came of each:

python -m tests.trl.test_templates
"""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest
import trl

from ors_gym import Message, TextBlock, ToolSpec
from ors_gym.policies.templates import template_tools, to_chat_template
from ors_gym.types import ReasoningBlock, ToolCallBlock, ToolList, ToolResultBlock
from ors_gym_trl.tokens.conversation import ChatTokenizer, TemplateError
from tests.support.chat_templates import byte_tokenizer

FOLDER = Path(trl.__file__).parent / "chat_templates"
TOOLS = ToolList((ToolSpec("look"), ToolSpec("press", "Press.", {"type": "object", "properties": {"color": {}}})))
PROMPT = (Message("user", (TextBlock("find the button"),)),)
RED, OK = (TextBlock("it is red"),), (TextBlock("ok"),)
ONE = ToolCallBlock("call00000", "look", {})
TWO = ToolCallBlock("call00001", "press", {"color": "red"})
REPLIES = {
    "one call": (Message("assistant", (ONE,)), Message("user", (ToolResultBlock(ONE.id, RED),))),
    "parallel calls": (
        Message("assistant", (ONE, TWO)),
        Message("user", (ToolResultBlock(ONE.id, RED), ToolResultBlock(TWO.id, OK))),
    ),
    "a call after reasoning": (
        Message("assistant", (ReasoningBlock("where?"), ONE)),
        Message("user", (ToolResultBlock(ONE.id, RED),)),
    ),
    "a message": (Message("assistant", (TextBlock("hm"),)), Message("user", (TextBlock("it is red"),))),
    "a message after reasoning": (
        Message("assistant", (ReasoningBlock("where?"), TextBlock("hm"))),
        Message("user", (TextBlock("it is red"),)),
    ),
}

# Each with the tokens that end a turn: the tokenizer's end-of-sequence token, then the model's further stop tokens.
EXACT = {
    "qwen2_5": ["<|im_end|>"],
    "qwen3": ["<|im_end|>"],
    "qwen3_instruct_2507": ["<|im_end|>"],
    "qwen3_5_think": ["<|im_end|>"],
    "qwen3_5_nothink": ["<|im_end|>"],
    "qwen3_6": ["<|im_end|>"],
    "llama3_1": ["<|eot_id|>"],
    "llama3_2": ["<|eot_id|>"],
    "gemma4": ["<turn|>", "<|tool_response>"],
    "gemma4_v5": ["<turn|>", "<|tool_response>"],
    "glm4moe": ["<|endoftext|>", "<|user|>", "<|observation|>"],
    "lfm2": ["<|im_end|>"],
    "lfm2_2_5": ["<|im_end|>"],
    "nemotron_3_nano": ["<|im_end|>"],
}
REFUSED = {
    "gemma": ["<end_of_turn>"],
    "gemma3": ["<end_of_turn>"],
    "gemma4": ["<turn|>"],  # its calls end with another stop token
    "phi3": ["<|endoftext|>", "<|end|>"],
    "gptoss": ["<|return|>", "<|call|>"],
    "cohere2": ["<|END_OF_TURN_TOKEN|>"],
}


def chat_tokenizer(name: str, ends: list[str]) -> ChatTokenizer:
    tokenizer = byte_tokenizer((FOLDER / f"{name}.jinja").read_text(), ends[0])
    tokenizer.bos_token = "<|bos|>"
    tokenizer.add_tokens(ends[1:], special_tokens=True)
    return ChatTokenizer(tokenizer, stops=tokenizer.convert_tokens_to_ids(ends))


def check(chat: ChatTokenizer, kind: str) -> None:
    """What is put between two turns ends a rendered conversation, says what followed, and repeats nothing sampled."""
    reply, following = REPLIES[kind]

    between = chat.tokenizer.decode(chat.between(reply, [following], TOOLS).ids)

    try:
        chat_with = to_chat_template([*PROMPT, reply, following])
        whole = chat._render(chat_with, template_tools(TOOLS), add_generation_prompt=True)
    except jinja2.TemplateError:  # one call a turn only
        chat_with[1]["tool_calls"] = chat_with[1]["tool_calls"][:1]
        whole = chat._render(chat_with, template_tools(TOOLS), add_generation_prompt=True)
    assert whole.endswith(between)
    assert "it is red" in between
    assert "where?" not in between
    assert "hm" not in between
    assert between.count("look") <= 1, "a result may name its call's tool, but the call is not repeated"


@pytest.mark.parametrize("kind", REPLIES)
@pytest.mark.parametrize("name", EXACT)
def test_what_stands_between_turns_is_what_the_models_own_template_puts_there(name: str, kind: str):
    check(chat_tokenizer(name, EXACT[name]), kind)


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_cannot_hold_a_conversation_with_tools_is_refused(name: str):
    with pytest.raises(TemplateError):
        chat = chat_tokenizer(name, REFUSED[name])
        chat.prompt(PROMPT, TOOLS)
        check(chat, "one call")


def outcome(name: str, ends: list[str], kind: str) -> str:
    try:
        chat = chat_tokenizer(name, ends)
        chat.prompt(PROMPT, TOOLS)
        check(chat, kind)
    except (TemplateError, AssertionError) as error:
        return f"{type(error).__name__}: {str(error)[:60]}"
    return "exact, training template" if "chat_template" in chat._options else "exact"


if __name__ == "__main__":
    print(f"| template | {' | '.join(REPLIES)} |")
    print("|---" * (len(REPLIES) + 1) + "|")
    for name, ends in (*EXACT.items(), *REFUSED.items()):
        print(f"| {name} | {' | '.join(outcome(name, ends, kind) for kind in REPLIES)} |")
