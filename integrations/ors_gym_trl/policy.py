"""The trained model as a policy: asked a turn at a time by episodes, sampling in batches of whatever is ready."""

from __future__ import annotations

import asyncio
import queue
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ors_gym.actions import ActionParser
from ors_gym.policy import Reply, Turn
from ors_gym_trl.generation import ModelSampler, Sampled
from ors_gym_trl.tokens import ChatTokenizer, TokenRecord

__all__ = ["TokenPolicy"]


@dataclass(slots=True)
class _Request:
    prompt: list[int]
    max_new_tokens: int
    answer: asyncio.Future[Sampled]


class TokenPolicy:
    """Keeps a :class:`TokenRecord` per episode and asks the model for the next turn of many episodes at once.

    Episodes ask on one event loop; :meth:`serve` samples in the thread that calls it, the trainer's, until the
    episodes are over. A batch is what is waiting when the model is free: nobody waits for the slowest.

    Args:
        tokenizer: The conversation's template.
        parser: Reads tool calls in what the model wrote.
        max_completion_tokens: An episode's tokens after the prompt, the environment's included.
        max_context_tokens: An episode's tokens in all, which is what the model has positions for.
        max_turn_tokens: Tokens of one turn; None leaves only the episode's limit.
        max_batch: Turns sampled in one batch.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        parser: ActionParser,
        *,
        max_completion_tokens: int,
        max_context_tokens: int = sys.maxsize,
        max_turn_tokens: int | None = None,
        max_batch: int = 128,
    ) -> None:
        self._tokenizer = tokenizer
        self._parser = parser
        self._max_completion_tokens = max_completion_tokens
        self._max_context_tokens = max_context_tokens
        self._max_turn_tokens = max_turn_tokens or max_completion_tokens
        self._max_batch = max_batch
        self._waiting: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self.records: dict[str, TokenRecord] = {}
        """The tokens of every episode that was asked for a turn, by episode id."""

    async def act(self, turn: Turn) -> Reply:
        """Sample the model's next turn; ``truncated`` when the episode's token budget is spent."""
        record = self._continue_record(turn)
        budget = min(
            self._max_turn_tokens,
            self._max_completion_tokens - len(record.completion_ids),
            self._max_context_tokens - len(record.ids),
        )
        if budget <= 0:
            return Reply(truncated=True)
        request = _Request(record.ids, budget, asyncio.get_running_loop().create_future())
        self._waiting.put(request)
        sampled = await request.answer
        record.add_sampled(sampled.ids, sampled.logprobs)
        text = self._tokenizer.decode_turn(sampled.ids)
        if not sampled.ended:
            return Reply(text=text, truncated=True)
        parsed = self._parser.parse(text)
        return Reply(text=parsed.text, tool_calls=parsed.tool_calls, error=parsed.error)

    def serve(self, sampler: ModelSampler) -> None:
        """Answer turns until :meth:`stop_serving` is called."""
        while (first := self._waiting.get()) is not None:
            requests = [first]
            while len(requests) < self._max_batch and not self._waiting.empty():
                following = self._waiting.get()
                if following is None:
                    return
                requests.append(following)
            sampled = sampler.sample([r.prompt for r in requests], [r.max_new_tokens for r in requests])
            first.answer.get_loop().call_soon_threadsafe(_resolve, requests, sampled)

    def stop_serving(self) -> None:
        """End :meth:`serve`, from any thread: the episodes are over."""
        self._waiting.put(None)

    def _continue_record(self, turn: Turn) -> TokenRecord:
        record = self.records.get(turn.episode_id)
        if record is None:
            record = self.records[turn.episode_id] = TokenRecord(self._tokenizer.prompt_ids(turn.messages, turn.tools))
            return record
        last_reply = max(i for i, message in enumerate(turn.messages) if message.role == "assistant")
        reply, following = turn.messages[last_reply], turn.messages[last_reply + 1 :]
        record.add_environment(self._tokenizer.between_ids(reply, following, turn.tools))
        return record


def _resolve(requests: Sequence[_Request], sampled: Sequence[Sampled]) -> None:
    for request, one in zip(requests, sampled, strict=True):
        if not request.answer.done():
            request.answer.set_result(one)
