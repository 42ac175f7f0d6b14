"""The trainer's model is read in the dialect of its own chat template, which is found before the first step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from ors_gym.dialects import UnknownDialectError, dialect
from ors_gym.policies.policy import Reply, Turn
from ors_gym.trajectory import TaskRef
from ors_gym.types import Message, TextBlock, ToolCall, ToolList, ToolSpec
from ors_gym_trl.environment import OpenSource
from ors_gym_trl.policy import TokenPolicy
from ors_gym_trl.sampling.sampler import SampledTurn
from ors_gym_trl.tokens.conversation import ChatTokenizer
from tests.support.chat_templates import QWEN, byte_tokenizer
from tests.support.dialect_table import FOLDER
from tests.support.tiny import make_tokenizer
from tests.support.trl_runs import make_rollouts, make_trainer, one_thread, prompts_of, server

__all__ = ["make_rollouts", "one_thread", "server"]  # fixtures

WRITE = ToolSpec("write", "Write.", {"type": "object", "properties": {"text": {"type": "string"}}})
CALL = "<tool_call>\n<function=write>\n<parameter=text>\n2\n</parameter>\n</function>\n</tool_call>"
ODD = QWEN.replace("<tool_call>\n", "CALL ").replace("\n</tool_call>", "!")


def odd_tokenizer() -> Any:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("<tool_call>", "CALL ").replace("</tool_call>", "!")
    return tokenizer


def source_of(rollouts: Any) -> OpenSource:
    return next(iter(rollouts.sources.values()))


def test_the_dialect_is_that_of_the_chat_template(make_rollouts: Callable):
    assert source_of(make_rollouts()).dialect(ChatTokenizer(byte_tokenizer(QWEN))) is dialect("hermes")


def test_a_template_that_no_dialect_reads_ends_the_run_before_an_episode_begins(
    make_rollouts: Callable, tmp_path: Path
):
    rollouts = make_rollouts()
    trainer = make_trainer(rollouts, tmp_path, tokenizer=odd_tokenizer())
    with pytest.raises(UnknownDialectError, match=r"none of \d+ dialects can read"):
        rollouts.rollout_func(prompts_of(rollouts, [0] * 4 + [1] * 4), trainer)


def test_a_named_dialect_that_the_template_does_not_teach_is_refused(make_rollouts: Callable):
    with pytest.raises(UnknownDialectError, match="the dialect xml cannot read"):
        source_of(make_rollouts(parser="xml")).dialect(ChatTokenizer(byte_tokenizer(QWEN)))


def ask(text: str) -> Reply:
    """A turn of a model whose prompt opens its thinking (Qwen 3.5), and which writes ``text``."""
    chat = ChatTokenizer(byte_tokenizer((FOLDER / "qwen3_5_think.jinja").read_text()))
    ids = [*chat.tokenizer(text, add_special_tokens=False)["input_ids"], chat.eos_token_id]
    sampled: Future[SampledTurn] = Future()
    sampled.set_result(SampledTurn.cut(ids, [0.0] * len(ids), len(ids), frozenset([chat.eos_token_id])))
    policy = TokenPolicy(chat, dialect("xml"), lambda *_: sampled, max_completion_tokens=1000)
    messages = (Message("user", (TextBlock("write it"),)),)
    return asyncio.run(policy.act(Turn("e", TaskRef("env", "train", 0), messages, ToolList((WRITE,)))))


def test_arguments_have_the_types_of_the_tools_schema():
    reply = ask(f"done thinking\n</think>\n\n{CALL}")
    assert (reply.tool_calls, reply.reasoning) == ((ToolCall("write", {"text": "2"}),), "done thinking")


def test_a_call_in_thinking_that_the_prompt_opened_is_not_made():
    assert (ask(CALL).tool_calls, ask(CALL).reason) == ((), "unclosed_thinking")


def test_without_tools_any_template_will_do(make_rollouts: Callable):
    rollouts = make_rollouts(tools=ToolList(), limits=None)
    assert source_of(rollouts).dialect(ChatTokenizer(byte_tokenizer(ODD))) is dialect("plain")
