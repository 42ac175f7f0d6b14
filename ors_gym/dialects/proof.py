"""Detection of a chat template's dialect: the one that exactly parses the calls that the template renders.

Probe calls are rendered through the template with arguments that distinguish the dialects: nested, empty, unicode,
multi-line, markup-like, and strings that look like numbers. Neither a model nor a table of names is involved.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from ors_gym.dialects.base import Dialect
from ors_gym.dialects.families import DIALECTS, dialect
from ors_gym.dialects.scanning import excerpt
from ors_gym.errors import UnknownDialectError
from ors_gym.types import ToolCall, ToolSpec

__all__ = ["PROBES", "TOOLS", "Template", "TemplateRenderer", "dialect_of", "same"]


class Template(Protocol):
    """The required interface of a tokenizer or processor, of transformers or another library."""

    chat_template: Any

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any:
        """Render a conversation."""
        ...


TOOLS = (
    ToolSpec(
        "write_file",
        "Write a file.",
        {
            "type": "object",
            "properties": {
                "path": {"type": "string", "description": "where"},
                "text": {"type": "string", "description": "what"},
                "count": {"type": "integer", "description": "how often"},
                "share": {"type": "number", "description": "how much"},
                "exact": {"type": "boolean", "description": "whether"},
                "tags": {"type": "array", "items": {"type": "string"}, "description": "which"},
                "options": {"type": "object", "description": "how"},
            },
        },
    ),
    ToolSpec("list_files", "List files.", {"type": "object", "properties": {}}),
)
NESTED: dict[str, Any] = {"deep": [{"on": True, "of": None}, [], "two\nlines", -0.5], "empty": {}}
PROBES: tuple[ToolCall, ...] = (
    ToolCall("write_file", {"path": "notes.txt", "text": "two\nlines\n", "count": 3, "exact": True}),
    ToolCall("write_file", {"path": "2", "text": " a ", "count": -7, "exact": False}),
    ToolCall("write_file", {"path": "", "text": "ünï → 😀", "share": 0.25, "tags": ["2", "it's", ""]}),
    ToolCall("write_file", {"text": "<b>a &amp; 'b'</b>", "options": NESTED, "tags": []}),
    ToolCall("write_file", {"path": "C:\\new\\table", "text": 'say "hi", it\'s\n\n', "options": {}}),
    ToolCall("write_file", {"text": '{"a": [1, "\\n"]}', "path": "null", "count": 10**15}),
    ToolCall("list_files"),
)


class TemplateRenderer:
    """Renders calls through a template, in the form in which a model writes them."""

    def __init__(
        self, template: Template, options: Mapping[str, Any] | None = None, tools: Sequence[ToolSpec] = TOOLS
    ) -> None:
        self._template = template
        self._tools = [tool.to_openai() for tool in tools]
        self._options = dict(options or {})
        self._formats = list(itertools.product((False, True), repeat=3))

    def with_tools(self, *tools: ToolSpec) -> TemplateRenderer:
        """The same template and message format with other tools."""
        other = TemplateRenderer(self._template, self._options, tools)
        other._formats = list(self._formats)
        return other

    def call(self, *calls: ToolCall) -> tuple[str, bool]:
        """The message that makes these calls, and whether the prompt leaves the model's reasoning open.

        Raises:
            UnknownDialectError: the template cannot render them.
        """
        failures: list[str] = []
        for message_format in list(self._formats):
            try:
                written = self._message(calls, *message_format)
            except Exception as error:  # a template may raise any exception
                failures.append(f"{type(error).__name__}: {excerpt(str(error), length=200)}")
                continue
            if calls[0].name in written[0]:
                self._formats = [message_format]  # the one that this template accepts
                return written
            failures.insert(0, f"for a call of {calls[0].name} it renders {written[0]!r}")
        raise UnknownDialectError(f"it renders no tool calls ({failures[0]})")

    def probes(self) -> list[tuple[Sequence[ToolCall], str, bool]]:
        """The template's rendering of each probe call, and of two calls in one message if supported."""
        messages: list[tuple[Sequence[ToolCall], str, bool]] = [((probe,), *self.call(probe)) for probe in PROBES]
        with contextlib.suppress(UnknownDialectError):  # Llama 3's template renders one call per message
            messages.append(((PROBES[0], PROBES[-1]), *self.call(PROBES[0], PROBES[-1])))
        return messages

    def _message(self, calls: Sequence[ToolCall], named_ids: bool, parts: bool, as_text: bool) -> tuple[str, bool]:
        user = {"role": "user", "content": [{"type": "text", "text": "go"}] if parts else "go"}
        made = [
            # Mistral's ids have nine characters; Kimi's contain the tool's name.
            {
                "id": f"functions.{call.name}:{number}" if named_ids else f"call{number:05}",
                "type": "function",
                "function": {"name": call.name, "arguments": arguments},
            }
            for number, call in enumerate(calls)
            for arguments in [json.dumps(call.input, ensure_ascii=False) if as_text else dict(call.input)]
        ]
        assistant = {"role": "assistant", "content": [] if parts else "", "tool_calls": made}
        whole = self._rendered([user, assistant], add_generation_prompt=False)
        question = self._rendered([user], add_generation_prompt=False)
        prompt = self._rendered([user], add_generation_prompt=True)
        begins = _common(prompt, whole)
        if begins < len(prompt) and begins >= len(question):
            # The prompt opens reasoning, which the template omits from a finished turn.
            mark = whole.rfind("<", len(question), begins)
            begins = mark if mark >= 0 and ">" not in whole[mark:begins] else begins
        return whole[begins:], whole[:begins].rstrip().endswith(("<think>", "[THINK]"))

    def _rendered(self, chat: list[dict[str, Any]], **options: Any) -> str:
        options |= self._options
        return str(self._template.apply_chat_template(chat, tools=self._tools, tokenize=False, **options))


def _common(one: str, other: str) -> int:
    shorter = min(len(one), len(other))
    return next((index for index in range(shorter) if one[index] != other[index]), shorter)


def unread(one: Dialect, messages: Iterable[tuple[Sequence[ToolCall], str, bool]]) -> str | None:
    """The first message that the dialect does not parse exactly; None if it parses all of them."""
    for calls, text, thinking_open in messages:
        # Command R7B's template also opens the next turn, which a model does not generate.
        stops = [index for index in map(text.find, one.stop_strings) if index >= 0]
        parsed = one.parse(text[: min(stops, default=len(text))], tools=TOOLS, thinking_open=thinking_open)
        expected = [call for call in calls if call.name in text]  # some templates render only the first call
        if parsed.text or not same([_plain(call) for call in parsed.tool_calls], [_plain(call) for call in expected]):
            return text
    return None


def _plain(call: ToolCall) -> Any:
    return [call.name, dict(call.input)]


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, types included. Key order is ignored, as Gemma's template sorts keys."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))  # pyright: ignore[reportUnknownArgumentType]
    return bool(one == other)


def dialect_of(
    tokenizer: Template, name: str | Dialect = "auto", *, template_options: Mapping[str, Any] | None = None
) -> Dialect:
    """The dialect that reads the output of the tokenizer's chat template.

    Args:
        tokenizer: A tokenizer or processor with a chat template.
        name: A dialect, or its name, to verify; by default the first matching one is returned.
        template_options: Further variables for the template.

    Raises:
        UnknownDialectError: no dialect parses all probe calls exactly, or the given one does not.
        ValueError: the dialect's name is unknown.
    """
    candidates = list(DIALECTS.values()) if name == "auto" else [dialect(name)]
    called = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    if not (template_options or {}).get("chat_template", tokenizer.chat_template):
        raise UnknownDialectError(f"the tokenizer of {called} has no chat template")
    try:
        messages = TemplateRenderer(tokenizer, template_options).probes()
    except UnknownDialectError as error:
        raise UnknownDialectError(f"the chat template of {called} has no dialect: {error.message}") from None
    failures = {one: unread(one, messages) for one in candidates if name != "auto" or one.teaches(messages[0][1])}
    proven = next((one for one, failure in failures.items() if failure is None), None)
    if proven is not None:
        return proven
    if name != "auto":
        (failed,) = candidates
        raise UnknownDialectError(
            f"the dialect {failed.name} cannot read the output of the chat template of {called}: {failures[failed]!r}"
        )
    raise UnknownDialectError(
        f"none of {len(candidates)} dialects can read the output of the chat template of {called}: {messages[0][1]!r}"
    )
