"""Token-exact conversations: what is trained on is what was sampled.

An episode's tokens are the prompt, then alternating spans: sampled by the model (mask 1, with log-probabilities) and
added by the environment (mask 0). Sampled ids are never decoded and encoded again. The ids between two turns come from
the chat template: rendered without and with the new messages, the second must continue the first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
from trl import get_training_chat_template

from ors_gym.types import (
    ImageBlock,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolCallBlock,
    ToolList,
    ToolResultBlock,
    text_of,
)

log = logging.getLogger(__name__)

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

    def turns(self) -> list[tuple[int, int]]:
        """Where each sampled turn begins and ends among the completion's tokens."""
        edges = [0, *self.mask, 0]
        places = range(len(self.mask) + 1)
        begins = [i for i in places if not edges[i] and edges[i + 1]]
        ends = [i for i in places if edges[i] and not edges[i + 1]]
        return list(zip(begins, ends, strict=True))

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

    The template must only append: what was rendered stays as it is when messages follow. One that does not, such as
    Qwen 3's, is replaced by the training template that TRL has for it. Reasoning stays in the conversation as it was
    sampled, also where a template would drop it from older turns.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        template_options: Further variables of the template (``enable_thinking=False``, …).
        stops: The tokens that end a turn, beside the tokenizer's own end-of-sequence token.

    Raises:
        TemplateError: There is no chat template, no end-of-sequence token, or a template that rewrites finished turns
            and has no replacement.
    """

    def __init__(
        self, tokenizer: Any, template_options: Mapping[str, Any] | None = None, stops: Iterable[int] = ()
    ) -> None:
        if getattr(tokenizer, "chat_template", None) is None:
            raise TemplateError("the tokenizer has no chat template; set tokenizer.chat_template to your model's")
        if tokenizer.eos_token_id is None:
            raise TemplateError("the tokenizer has no eos_token; a turn must end with one")
        self.tokenizer = tokenizer
        self.eos_token_id: int = tokenizer.eos_token_id
        self._ends = [str(tokenizer.eos_token), *(str(tokenizer.decode([token])) for token in stops)]
        self._options = dict(template_options or {})
        self._encoded: dict[str, list[int]] = {}
        if self._fault() is not None:
            self._options |= _training_template(tokenizer)
            fault = self._fault()
            if isinstance(fault, TemplateError):
                raise fault

    def prompt_ids(self, messages: Sequence[Message], tools: ToolList) -> list[int]:
        """The ids of an episode's prompt, up to where the model's first turn begins.

        Raises:
            TemplateError: The template does not show the model its tools.
        """
        text = self._render(chat_messages(messages), chat_tools(tools), add_generation_prompt=True)
        missing = [name for name in tools.names if name not in text]
        if missing:
            raise TemplateError(
                f"the chat template does not show the model its tools ({', '.join(missing)} missing in the prompt). "
                "Set tokenizer.chat_template to one that renders tools"
            )
        return self._encode(text)

    def between_ids(self, reply: Message, following: Sequence[Message], tools: ToolList) -> list[int]:
        """The ids from the end of the model's turn ``reply`` to where its next turn begins.

        They hold what ``following`` says (tool results, or an error) in the template's words. Of the turn itself only
        the names and ids of its calls matter here: what it says was sampled, and stays as it was.

        Raises:
            TemplateError: The template renders a finished turn differently once something follows it.
        """
        calls = [ToolCallBlock(call.id, call.name, {}) for call in reply.tool_calls]
        spoken = Message("assistant", tuple(calls) or (TextBlock("-"),))
        chat = chat_messages([spoken, *following])
        try:
            return self._encode(self._between(chat, chat_tools(tools)))
        except CANNOT_RENDER as error:
            raise TemplateError(f"the chat template cannot render what follows a turn: {error}") from error

    def decode_turn(self, ids: Sequence[int]) -> str:
        """What the model wrote in a turn, without the end-of-sequence token. For reading only, never encoded again."""
        if ids and ids[-1] == self.eos_token_id:
            ids = ids[:-1]
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def _between(self, chat: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
        asked = {"role": "user", "content": "-"}
        try:
            before = self._render([asked, chat[0]], tools, add_generation_prompt=False)
        except CANNOT_RENDER:
            if len(chat[0].get("tool_calls", ())) < 2:
                raise
            # Llama 3's template renders one call a turn, whatever the model does; their results it renders all.
            chat = [chat[0] | {"tool_calls": chat[0]["tool_calls"][:1]}, *chat[1:]]
            before = self._render([asked, chat[0]], tools, add_generation_prompt=False)
        after = self._render([asked, *chat], tools, add_generation_prompt=True)
        begun = self._render([asked], tools, add_generation_prompt=True)
        start, common = _common_length(begun, before), _common_length(before, after)
        for end in self._ends:
            # Templates write more after a turn's end ("<|im_end|>\n"): that, too, comes after what the model sampled.
            place = before.rfind(end, start, common)
            if place >= 0 and end not in before[place + len(end) :]:
                return after[place + len(end) :]
            # Or a turn ends with the token that begins what follows (GLM 4, and calls of Gemma 4).
            if common == len(before) and after.startswith(end, common):
                return after[common + len(end) :]
        raise TemplateError(REWRITES)

    def _fault(self) -> Exception | None:
        """What is wrong with a turn that tool results follow, or a message. A TemplateError rules the template out."""
        call = {"id": "call00000", "type": "function", "function": {"name": "look", "arguments": {}}}
        calling = {"role": "assistant", "content": "", "tool_calls": [call]}
        result = {"role": "tool", "name": "look", "tool_call_id": "call00000", "content": "-"}
        spoken, answer = {"role": "assistant", "content": "-"}, {"role": "user", "content": "-"}
        try:
            self._between([spoken, answer], None)
            self._between([calling, result], None)
        except (TemplateError, *CANNOT_RENDER) as error:
            return error
        return None

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


def _common_length(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    shorter = min(len(one), len(other))
    return next((i for i in range(shorter) if one[i] != other[i]), shorter)


REWRITES = (
    "the chat template changes a finished turn when messages follow it, or does not end it with one of the model's "
    "stop tokens, so the tokens that were sampled would not be the tokens that are trained on. TRL has no training "
    "template for it (trl.get_training_chat_template): set tokenizer.chat_template to one that only appends"
)


CANNOT_RENDER = (jinja2.TemplateError, TypeError)
"""What templates raise for what they have no place for, such as tool results."""


def _training_template(tokenizer: Any) -> dict[str, str]:
    """TRL's training template in place of the tokenizer's own, as an option; none where TRL has none."""
    try:
        template = get_training_chat_template(tokenizer)
    except ValueError:
        return {}
    log.info("the tokenizer's chat template rewrites finished turns: TRL's training template is used in its place")
    return {} if template is None else {"chat_template": template}
