"""Token-exact conversations: what is trained on is what was sampled.

Sampled ids are never decoded and encoded again. The ids between two turns come from the chat template: rendered without
and with the new messages, the second must continue the first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2

from ors_gym.dialects import Dialect, dialect_of
from ors_gym.policies.templates import images_in, template_tools, to_chat_template
from ors_gym.types import (
    ImageBlock,
    Message,
    TextBlock,
    ToolCallBlock,
    ToolList,
)
from ors_gym_trl.compat import training_chat_template
from ors_gym_trl.tokens.images import ImagesNotSupportedError, VisionProcessor
from ors_gym_trl.tokens.record import Span

log = logging.getLogger(__name__)

__all__ = ["ChatTokenizer", "TemplateError"]


class TemplateError(ValueError):
    """The tokenizer's chat template cannot be used for multi-turn training; the message says why and what to do."""


class ChatTokenizer:
    """Turns conversations into token ids with a tokenizer's own chat template.

    The template must only append: what was rendered stays as it is when messages follow. One that does not, such as
    Qwen 3's, is replaced by the training template that TRL has for it. Reasoning stays in the conversation as it was
    sampled, also where a template would drop it from older turns.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        template_options: Further variables of the template (``enable_thinking=False``, …).
        stops: The tokens that end a turn, in addition to the tokenizer's end-of-sequence token.
        vision: The model's processor; None for a model of text, to which no image can be shown.

    Raises:
        TemplateError: There is no chat template, no end-of-sequence token, or a template that rewrites finished turns
            and has no replacement.
    """

    def __init__(
        self,
        tokenizer: Any,
        template_options: Mapping[str, Any] | None = None,
        stops: Iterable[int] = (),
        vision: VisionProcessor | None = None,
    ) -> None:
        # A vision-language model's template is its processor's; its tokenizer may have one for text, or none.
        speaker = tokenizer if vision is None or vision.processor.chat_template is None else vision.processor
        options = {"chat_template": speaker.chat_template} | dict(template_options or {})
        if options["chat_template"] is None:
            raise TemplateError("the tokenizer has no chat template; set tokenizer.chat_template to your model's")
        if tokenizer.eos_token_id is None:
            raise TemplateError("the tokenizer has no eos_token; a turn must end with one")
        self.tokenizer = tokenizer
        self._vision = vision
        self.eos_token_id: int = tokenizer.eos_token_id
        self._ends = [str(tokenizer.eos_token), *(str(tokenizer.decode([token])) for token in stops)]
        self._options = options
        self._encoded: dict[str, list[int]] = {}
        self._in_parts = False
        self._in_parts = vision is not None and not self._shows_strings()
        if self._fault() is not None:
            self._options |= _training_template(speaker)
            fault = self._fault()
            if isinstance(fault, TemplateError):
                raise fault

    @property
    def image_token_id(self) -> int | None:
        """The token that images are runs of; None for a model of text."""
        return None if self._vision is None else self._vision.image_token_id

    def dialect(self, name: str) -> Dialect:
        """The dialect that reads what the template writes: the one of that name, or any (``"auto"``).

        Raises:
            UnknownDialectError: it cannot be read.
        """
        return dialect_of(self.tokenizer, name, template_options=self._options)

    def prompt(self, messages: Sequence[Message], tools: ToolList) -> Span:
        """An episode's prompt, up to where the model's first turn begins.

        Raises:
            TemplateError: The template does not show the model its tools.
        """
        text = self._render(to_chat_template(messages), template_tools(tools), add_generation_prompt=True)
        missing = [name for name in tools.names if name not in text]
        if missing:
            raise TemplateError(
                f"the chat template does not show the model its tools ({', '.join(missing)} missing in the prompt). "
                "Set tokenizer.chat_template to one that renders tools"
            )
        return self._encode(text, messages)

    def between(self, reply: Message, following: Sequence[Message], tools: ToolList) -> Span:
        """What lies from the end of the model's turn ``reply`` to where its next turn begins.

        It holds what ``following`` says (tool results, or an error) in the template's words. Of the turn itself only
        the names and ids of its calls matter here: what it says was sampled, and stays as it was.

        Raises:
            TemplateError: The template renders a finished turn differently once something follows it.
        """
        calls = [ToolCallBlock(call.id, call.name, {}) for call in reply.tool_calls]
        spoken = Message("assistant", tuple(calls) or (TextBlock("-"),))
        chat = to_chat_template([spoken, *following])
        try:
            text = self._between(chat, template_tools(tools))
        except CANNOT_RENDER as error:
            raise TemplateError(f"the chat template cannot render what follows a turn: {error}") from error
        return self._encode(text, following)

    def decode_turn(self, ids: Sequence[int]) -> str:
        """The model's text of a turn, without the end-of-sequence token. For reading only, never encoded again."""
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
            # Llama 3's template renders one call per turn but all results.
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

    def _shows_strings(self) -> bool:
        """Templates of some vision-language models (SmolVLM, LLaVA) loop over parts, and leave a string out."""
        try:
            return "question" in self._render([{"role": "user", "content": "question"}], None)
        except CANNOT_RENDER:
            return False

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
        if self._in_parts:
            chat = [message | {"content": _parts(message["content"])} for message in chat]
        rendered = self.tokenizer.apply_chat_template(chat, tools=tools, tokenize=False, **options, **self._options)
        return str(rendered)

    def _encode(self, text: str, messages: Sequence[Message]) -> Span:
        blocks = list(images_in(messages))
        if blocks:
            return self._encode_images(text, blocks)
        # Prompts and results repeat within a group and over a run: most texts were encoded before.
        ids = self._encoded.get(text)
        if ids is None:
            if len(self._encoded) >= 4096:
                self._encoded.clear()
            ids = self._encoded[text] = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if self._vision is not None and self._vision.image_token_id in ids:
            token = self.tokenizer.decode([self._vision.image_token_id])
            raise ValueError(f"a message holds {token!r} as text, which the model takes for an image: {text[-500:]!r}")
        return Span(list(ids))

    def _encode_images(self, text: str, blocks: Sequence[ImageBlock]) -> Span:
        """An image that is left out would be a question without its picture, answered and trained on all the same."""
        if self._vision is None:
            raise ImagesNotSupportedError(
                "the environment sent an image, and the model is trained on text. Train a vision-language model, with "
                "its processor as the trainer's processing_class; or have the environment describe what it shows"
            )
        pictures = self._vision.encode(text, blocks)
        if self._vision.image_token_id not in pictures.ids:
            raise TemplateError(
                "the chat template leaves out the images of a message (of a tool's result, perhaps). "
                "Set the processor's chat_template to one that shows them"
            )
        return Span(list(pictures.ids), pictures)


def _parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _common_length(one: str, other: str) -> int:
    """The length of the common prefix of two texts."""
    shorter = min(len(one), len(other))
    return next((i for i in range(shorter) if one[i] != other[i]), shorter)


REWRITES = (
    "the chat template changes a finished turn when messages follow it, or does not end it with one of the model's "
    "stop tokens, so the tokens that were sampled would not be the tokens that are trained on. TRL has no training "
    "template for it (trl.get_training_chat_template): set tokenizer.chat_template to one that only appends"
)


CANNOT_RENDER = (jinja2.TemplateError, TypeError)
"""Errors of templates for unsupported messages, such as tool results."""


def _training_template(speaker: Any) -> dict[str, str]:
    """TRL's training template in place of a tokenizer's or processor's own, as an option; none where TRL has none."""
    template = training_chat_template(speaker)
    if template is None:
        return {}
    log.info("the chat template rewrites finished turns: TRL's training template is used in its place")
    return {"chat_template": template}
