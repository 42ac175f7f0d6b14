"""The trained model as a policy: every token that was sampled is the token that is trained on, whatever it spells."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future

from hypothesis import given, settings
from hypothesis import strategies as st

from ors_gym import Message, TaskRef, TextBlock, ToolCall, ToolSpec
from ors_gym.policies.policy import Reply, Turn
from ors_gym.types import ToolCallBlock, ToolList, ToolResultBlock
from ors_gym_trl.policy import TokenPolicy
from ors_gym_trl.sampling.sampler import SampledTurn
from ors_gym_trl.tokens.conversation import ChatTokenizer
from ors_gym_trl.tokens.record import ImageInputs, TokenRecord
from tests.support.chat_templates import QWEN, byte_tokenizer
from tests.support.trl_says import Says

TOOLS = ToolList((ToolSpec("look"),))
CHAT = ChatTokenizer(byte_tokenizer(QWEN))
EOS = CHAT.eos_token_id
PROMPT = (Message("user", (TextBlock("find the button"),)),)


class Samples:
    """A sampler that continues with what it is given, and remembers what it was asked to continue."""

    def __init__(self, turns: Sequence[Sequence[int]]) -> None:
        self.turns = list(turns)
        self.asked: list[tuple[list[int], int]] = []

    def submit(
        self, prompt: Sequence[int], max_new_tokens: int, pictures: Sequence[ImageInputs], seed: int | None
    ) -> Future[SampledTurn]:
        self.asked.append((list(prompt), max_new_tokens))
        ids = self.turns[len(self.asked) - 1]
        values = [-float(i) - 1.0 for i in range(len(ids))]
        answer: Future[SampledTurn] = Future()
        answer.set_result(SampledTurn.cut(ids, values, max_new_tokens, frozenset([EOS])))
        return answer


def sampled_turns(record: TokenRecord) -> list[tuple[int, int]]:
    """Where each sampled turn begins and ends among the completion's tokens."""
    edges = [0, *record.mask, 0]
    places = range(len(record.mask) + 1)
    begins = [i for i in places if not edges[i] and edges[i + 1]]
    ends = [i for i in places if edges[i] and not edges[i + 1]]
    return list(zip(begins, ends, strict=True))


def play(policy: TokenPolicy, num_turns: int, result: str = "it is red") -> list[Reply]:
    """The conversation that a rollout would hold, each call answered with ``result``."""

    async def converse() -> list[Reply]:
        messages, replies = list(PROMPT), []
        for number in range(num_turns):
            reply = await policy.act(Turn("e", TaskRef("env", "train", 0), tuple(messages), TOOLS, number))
            replies.append(reply)
            if reply.truncated:
                break
            calls = [ToolCallBlock(f"call_{number}_{i}", c.name, c.input) for i, c in enumerate(reply.tool_calls)]
            results = [ToolResultBlock(call.id, (TextBlock(result),)) for call in calls]
            messages += [Message("assistant", tuple(calls)), Message("user", tuple(results))]
        return replies

    return asyncio.run(converse())


# Any ids: bytes of half a character, "a" and "b" which encode together, special tokens in the middle of a turn.
turns = st.lists(st.integers(0, len(CHAT.tokenizer) - 1).filter(lambda token: token != EOS), max_size=12)


@settings(max_examples=60, deadline=None)
@given(sampled=st.lists(turns, min_size=1, max_size=4))
def test_what_was_sampled_is_what_is_trained_on(sampled: list[list[int]]):
    sampler = Samples([[*ids, EOS] for ids in sampled])
    policy = TokenPolicy(CHAT, Says(ToolCall("look")), sampler.submit, max_completion_tokens=100_000)

    play(policy, len(sampled))

    record = policy.records["e"]
    spans = [record.completion_ids[begin:end] for begin, end in sampled_turns(record)]
    assert [token for span in spans for token in span] == [token for ids in sampled for token in (*ids, EOS)]
    assert [value for value, mask in zip(record.logprobs, record.mask, strict=True) if mask] == [
        -float(i) - 1.0 for ids in sampled for i in range(len(ids) + 1)
    ]
    # What the model continued each time is what the record says stood before.
    for (prompt, _), (begin, _) in zip(sampler.asked, sampled_turns(record), strict=True):
        assert prompt == record.prompt_ids + record.completion_ids[:begin]


def test_a_turn_that_encodes_differently_is_not_encoded_again():
    a, b = CHAT.tokenizer.convert_tokens_to_ids(["a", "b"])
    assert CHAT.tokenizer("ab", add_special_tokens=False)["input_ids"] != [a, b]
    sampler = Samples([[a, b, EOS]] * 2)
    policy = TokenPolicy(CHAT, Says(ToolCall("look")), sampler.submit, max_completion_tokens=1000)

    play(policy, 2)

    assert policy.records["e"].completion_ids[:3] == [a, b, EOS]
    assert policy.records["e"].completion_ids[-3:] == [a, b, EOS]


def test_a_turn_that_is_cut_off_ends_the_episode():
    sampler = Samples([[5] * 50])
    policy = TokenPolicy(CHAT, Says(ToolCall("look")), sampler.submit, max_completion_tokens=1000, max_turn_tokens=7)

    [reply] = play(policy, 3)

    assert reply.truncated
    assert reply.num_tokens == 7
    assert not reply.tool_calls
    assert policy.records["e"].completion_ids == [5] * 7


def test_a_result_that_leaves_no_room_for_another_turn_ends_the_episode():
    sampler = Samples([[5, EOS]])
    policy = TokenPolicy(CHAT, Says(ToolCall("look")), sampler.submit, max_completion_tokens=20)

    replies = play(policy, 3, result="it is red " * 10)

    assert [reply.truncated for reply in replies] == [False, True]
    record = policy.records["e"]
    record.drop_trailing_environment()
    assert record.completion_ids == [5, EOS]


def test_the_models_positions_limit_the_whole_conversation():
    sampler = Samples([[5] * 50])
    room = len(CHAT.prompt(PROMPT, TOOLS).ids) + 3
    policy = TokenPolicy(
        CHAT, Says(ToolCall("look")), sampler.submit, max_completion_tokens=1000, max_context_tokens=room
    )

    play(policy, 2)

    assert sampler.asked[0][1] == 3


def test_an_episodes_own_token_limit_holds_too():
    sampler = Samples([[5] * 50])
    policy = TokenPolicy(CHAT, Says(ToolCall("look")), sampler.submit, max_completion_tokens=1000)

    turn = Turn("e", TaskRef("env", "train", 0), PROMPT, TOOLS, max_tokens=4)
    reply = asyncio.run(policy.act(turn))

    assert reply.num_tokens == 4
