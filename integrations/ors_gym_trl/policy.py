"""The trained model as a policy that keeps the exact tokens of each episode."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeAlias

from ors_gym.dialects import Dialect
from ors_gym.policies.policy import Reply, Turn
from ors_gym.types import ImageBlock, Message, TextBlock, ToolResultBlock
from ors_gym_trl.sampling.sampler import SampledTurn
from ors_gym_trl.tokens.conversation import ChatTokenizer
from ors_gym_trl.tokens.images import ImagesNotSupportedError
from ors_gym_trl.tokens.record import ImageInputs, TokenRecord

__all__ = ["TokenPolicy", "UnseenImages"]

UnseenImages: TypeAlias = Literal["stop", "skip", "describe"]

END_OF_PROMPT = 32
"""Number of last tokens of a prompt that show whether it opens the model's reasoning."""


class Submit(Protocol):
    """The ``submit`` method of a :class:`~ors_gym_trl.sampling.sampler.Sampler`."""

    def __call__(
        self, prompt: Sequence[int], max_new_tokens: int, pictures: Sequence[ImageInputs], seed: int | None
    ) -> Future[SampledTurn]:
        """Start sampling a turn."""
        ...


class TokenPolicy:
    """Keeps a :class:`TokenRecord` per episode and asks a sampler for the next turn of each.

    Args:
        tokenizer: The conversation's template.
        dialect: Reads the model's tool calls.
        submit: The sampler's.
        max_completion_tokens: An episode's tokens after the prompt, the environment's included.
        max_context_tokens: All tokens of an episode, limited by the model's positions.
        max_turn_tokens: Tokens of one turn; None leaves only the episode's limit.
        system: A system message before the environment's prompt.
        unseen_images: For an episode that shows an image to a text model: ``"stop"`` raises, ``"skip"`` ends it and
            adds it to ``skipped``, ``"describe"`` replaces the image by a sentence.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        dialect: Dialect,
        submit: Submit,
        *,
        max_completion_tokens: int,
        max_context_tokens: int = sys.maxsize,
        max_turn_tokens: int | None = None,
        system: str | None = None,
        unseen_images: UnseenImages = "stop",
    ) -> None:
        self._tokenizer = tokenizer
        self._dialect = dialect
        self._submit = submit
        self._max_completion_tokens = max_completion_tokens
        self._max_context_tokens = max_context_tokens
        self._max_turn_tokens = max_turn_tokens or max_completion_tokens
        self._system = system
        self._unseen_images: UnseenImages = unseen_images
        self.skipped: set[str] = set()
        """Episodes that ended because the model takes no images."""
        self.records: dict[str, TokenRecord] = {}
        """The tokens of every episode with a turn, by episode id."""

    async def act(self, turn: Turn) -> Reply:
        """Sample the model's next turn; ``truncated`` when the episode's token budget is spent."""
        try:
            record = self._continue_record(turn)
        except ImagesNotSupportedError:
            if self._unseen_images != "skip":
                raise
            self.skipped.add(turn.episode_id)
            return Reply(truncated=True, num_tokens=0)
        budget = min(
            self._max_turn_tokens,
            self._max_completion_tokens - len(record.completion_ids),
            self._max_context_tokens - len(record.ids),
            sys.maxsize if turn.max_tokens is None else turn.max_tokens,
        )
        if budget <= 0:
            return Reply(truncated=True, num_tokens=0)
        num_prompt_tokens = len(record.ids)
        thinking_open = self._dialect.opens_thinking(self._tokenizer.decode_turn(record.ids[-END_OF_PROMPT:]))
        pictures = tuple(record.pictures.values())
        sampled = await asyncio.wrap_future(self._submit(record.ids, budget, pictures, turn.seed))
        image_token = self._tokenizer.image_token_id
        if image_token is not None and image_token in sampled.ids:
            sampled = sampled.before(image_token)  # an image token without an image, which vLLM can sample
        record.add_sampled(sampled.ids, sampled.logprobs)
        text = self._tokenizer.decode_turn(sampled.ids)
        if sampled.ended:
            reply = self._dialect.parse(text, tools=turn.tools, thinking_open=thinking_open)
        else:
            reply = Reply(text, truncated=True)
        return replace(reply, num_tokens=len(sampled.ids), num_prompt_tokens=num_prompt_tokens)

    def _continue_record(self, turn: Turn) -> TokenRecord:
        record = self.records.get(turn.episode_id)
        if record is None:
            record = self.records[turn.episode_id] = TokenRecord.beginning(
                self._tokenizer.prompt(self._shown(with_system(self._system, turn.messages)), turn.tools)
            )
            return record
        last_reply = max(i for i, message in enumerate(turn.messages) if message.role == "assistant")
        reply, following = turn.messages[last_reply], turn.messages[last_reply + 1 :]
        between = self._tokenizer.between(reply, self._shown(following), turn.tools)
        record.add_environment(between.ids, between.pictures)
        return record

    def _shown(self, messages: Sequence[Message]) -> Sequence[Message]:
        described = self._unseen_images == "describe" and self._tokenizer.image_token_id is None
        return images_in_words(messages) if described else messages


def with_system(system: str | None, messages: Sequence[Message]) -> Sequence[Message]:
    """``messages`` after a system message, merged with the environment's own if there is one."""
    if system is None:
        return messages
    if messages and messages[0].role == "system":
        own = messages[0]
        return (replace(own, blocks=(TextBlock(f"{system}\n\n"), *own.blocks)), *messages[1:])
    return (Message("system", (TextBlock(system),)), *messages)


def images_in_words(messages: Sequence[Message]) -> list[Message]:
    """``messages`` with a sentence in the place of each image."""
    return [replace(message, blocks=tuple(map(_in_words, message.blocks))) for message in messages]


def _in_words(block: Any) -> Any:
    if isinstance(block, ToolResultBlock):
        return replace(block, blocks=tuple(map(_in_words, block.blocks)))
    return (
        TextBlock(f"[an image ({block.mime_type}), which cannot be shown]") if isinstance(block, ImageBlock) else block
    )
