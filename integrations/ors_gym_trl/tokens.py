"""Token-exact conversations: what is trained on is what was sampled.

An episode's tokens are the prompt, then alternating spans: sampled by the model (mask 1, with log-probabilities) and
added by the environment (mask 0). Sampled ids are never decoded and encoded again. The ids between two turns come from
the chat template: rendered without and with the new messages, the second must continue the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ors_gym.types import ImageBlock, Message, ReasoningBlock, ToolCallBlock, ToolList, ToolResultBlock, text_of

__all__ = ["ChatTokenizer", "ImagesNotSupportedError", "TemplateError", "TokenRecord", "chat_messages", "chat_tools"]


class TemplateError(ValueError):
    """The tokenizer's chat template cannot be used for multi-turn training; the message says why and what to do."""


class ImagesNotSupportedError(NotImplementedError):
    """An environment showed an image to a model that is trained on text."""


@dataclass(slots=True)
class TokenRecord:
    """One episode as the trainer sees it. The last three lists have one entry per completion token."""

    prompt_ids: list[int]
    completion_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    mask: list[int] = field(default_factory=list[int])

    @property
    def ids(self) -> list[int]:
        """Everything so far: what the model is asked to continue."""
        return self.prompt_ids + self.completion_ids

    def add_sampled(self, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        """Append tokens that the model sampled, each with its log-probability (nats)."""
        if len(ids) != len(logprobs):
            raise ValueError(f"{len(ids)} sampled tokens came with {len(logprobs)} log-probabilities")
        self.completion_ids.extend(ids)
        self.logprobs.extend(logprobs)
        self.mask.extend([1] * len(ids))

    def add_environment(self, ids: Sequence[int]) -> None:
        """Append tokens that the environment and the template put between two turns."""
        self.completion_ids.extend(ids)
        self.logprobs.extend([0.0] * len(ids))
        self.mask.extend([0] * len(ids))

    def drop_trailing_environment(self) -> None:
        """Drop what follows the last sampled token: there is nothing to learn from it."""
        end = len(self.mask) - next((i for i, mask in enumerate(reversed(self.mask)) if mask), len(self.mask))
        del self.completion_ids[end:], self.logprobs[end:], self.mask[end:]


def chat_tools(tools: ToolList) -> list[dict[str, Any]] | None:
    """The tools as chat templates take them, their JSON Schemas whole; None for no tools, not an empty list."""
    return [tool.to_openai() for tool in tools] or None


def chat_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """An ORS conversation as chat templates take it: tool results become messages of the role ``tool``."""
    chat: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for message in messages:
        _refuse_images(message)
        results = [block for block in message.blocks if isinstance(block, ToolResultBlock)]
        for result in results:
            chat.append(
                {
                    "role": "tool",
                    "name": names.get(result.tool_call_id, ""),
                    "tool_call_id": result.tool_call_id,
                    "content": text_of(result.blocks),
                }
            )
        text = message.text
        if results and not text:
            continue
        entry: dict[str, Any] = {"role": message.role, "content": text}
        reasoning = "\n".join(block.text for block in message.blocks if isinstance(block, ReasoningBlock))
        if reasoning:
            entry["reasoning_content"] = reasoning
        if message.tool_calls:
            entry["tool_calls"] = [_chat_tool_call(call) for call in message.tool_calls]
            names |= {call.id: call.name for call in message.tool_calls}
        chat.append(entry)
    return chat


def _refuse_images(message: Message) -> None:
    """An image that is left out would be a question without its picture, answered and trained on all the same."""
    blocks = [inner for b in message.blocks for inner in (b.blocks if isinstance(b, ToolResultBlock) else (b,))]
    if any(isinstance(block, ImageBlock) for block in blocks):
        raise ImagesNotSupportedError(
            "the environment sent an image, and images cannot be trained on: GRPOTrainer hands a rollout function's "
            "images to no model (TRL 1.16). Train on environments that answer in text, or have this one describe what "
            "it shows"
        )


def _chat_tool_call(call: ToolCallBlock) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": dict(call.input)}}


class ChatTokenizer:
    """Turns conversations into token ids with a tokenizer's own chat template.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        template_options: Further variables of the template (``enable_thinking=False``, …).

    Raises:
        TemplateError: The tokenizer has no chat template, or no end-of-sequence token.
    """

    def __init__(self, tokenizer: Any, template_options: Mapping[str, Any] | None = None) -> None:
        if getattr(tokenizer, "chat_template", None) is None:
            raise TemplateError("the tokenizer has no chat template; set tokenizer.chat_template to your model's")
        if tokenizer.eos_token_id is None:
            raise TemplateError("the tokenizer has no eos_token; a turn must end with one")
        self.tokenizer = tokenizer
        self.eos_token_id: int = tokenizer.eos_token_id
        self._eos: str = tokenizer.eos_token
        self._options = dict(template_options or {})
        self._encoded: dict[str, list[int]] = {}

    def prompt_ids(self, messages: Sequence[Message], tools: ToolList) -> list[int]:
        """The ids of an episode's prompt, up to where the model's first turn begins."""
        text = self._render(chat_messages(messages), chat_tools(tools), add_generation_prompt=True)
        return self._encode(text)

    def between_ids(self, reply: Message, following: Sequence[Message], tools: ToolList) -> list[int]:
        """The ids from the end of the model's turn ``reply`` to where its next turn begins.

        They hold what ``following`` says (tool results, or an error) in the template's words.

        Raises:
            TemplateError: The template renders a finished turn differently once something follows it.
        """
        asked = {"role": "user", "content": "-"}
        chat = chat_messages([reply, *following])
        before = self._render([asked, chat[0]], chat_tools(tools), add_generation_prompt=False)
        after = self._render([asked, *chat], chat_tools(tools), add_generation_prompt=True)
        # Templates write more after a turn's end ("<|im_end|>\n"): that, too, comes after what the model sampled.
        end = before.rfind(self._eos)
        before = before[: end + len(self._eos)] if end >= 0 else before
        if not after.startswith(before):
            raise TemplateError(
                "the chat template changes a finished turn when messages follow it, so the tokens that were sampled "
                "would not be the tokens that are trained on. Use a training template that only appends: "
                "tokenizer.chat_template = trl.get_training_chat_template(tokenizer)"
            )
        return self._encode(after[len(before) :])

    def decode_turn(self, ids: Sequence[int]) -> str:
        """What the model wrote in a turn, without the end-of-sequence token. For reading only, never encoded again."""
        if ids and ids[-1] == self.eos_token_id:
            ids = ids[:-1]
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def _render(self, chat: list[dict[str, Any]], tools: list[dict[str, Any]] | None, **options: Any) -> str:
        rendered = self.tokenizer.apply_chat_template(chat, tools=tools, tokenize=False, **options, **self._options)
        return str(rendered)

    def _encode(self, text: str) -> list[int]:
        # Prompts and results repeat within a group and over a run: most texts were encoded before.
        ids = self._encoded.get(text)
        if ids is None:
            if len(self._encoded) >= 4096:
                self._encoded.clear()
            ids = self._encoded[text] = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return list(ids)
