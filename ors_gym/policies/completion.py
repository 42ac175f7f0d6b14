"""The answers of Chat Completions endpoints. No I/O.

Servers differ: reasoning arrives as ``reasoning_content`` or ``reasoning``, as parts of the content, or between
``<think>`` tags; arguments as JSON text or as an object; deltas without an index. All other fields of a message and its
calls are preserved: hosted models require their signatures and encrypted reasoning back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast

from ors_gym.policies.answer import Answer, Finish, Piece, as_array, as_place, count_in, count_or
from ors_gym.policies.pieces import Growing, check_count, joined_parts
from ors_gym.types.shapes import JSONObject, mapping

__all__ = ["Completion"]

OWN_FIELDS = frozenset({"role", "content", "tool_calls", "refusal", "function_call", "audio", "annotations"})
"""Fields of a message that this module reads, or that no endpoint accepts back."""
REASONING = ("reasoning_content", "reasoning")
FILTERS = "content_filter SAFETY RECITATION BLOCKLIST PROHIBITED_CONTENT SPII LANGUAGE IMAGE_SAFETY"


class Completion(Answer):
    """A completion. Only the first choice is read."""

    words: ClassVar[Mapping[str, Finish]] = {
        **dict.fromkeys(("stop", "tool_calls", "function_call", "STOP", "eos_token", "stop_sequence"), Finish.DONE),
        **dict.fromkeys(("length", "max_tokens", "model_length", "MAX_TOKENS"), Finish.CUT),
        **dict.fromkeys(FILTERS.split(), Finish.FILTERED),
    }

    def __init__(self) -> None:
        super().__init__()
        self._text: list[str] = []
        self._parts: list[Any] = []
        self._has_parts = False
        self._is_null = True
        self._thoughts: list[str] = []
        self._fields: dict[str, Growing] = {}
        self._calls: list[_PartialCall] = []
        self._calls_by_index: dict[object, _PartialCall] = {}

    @property
    def finish(self) -> Finish:
        """The meaning of the finish reason, to which Gemini may add its filter as a prefix."""
        if "MALFORMED_FUNCTION_CALL" in self.finish_reason:
            return Finish.MALFORMED
        return super().finish

    def feed(self, event: Any) -> None:
        """Process one chunk of a stream, or a complete answer."""
        answer = mapping(event, "a completion")
        usage = answer.get("usage")
        groq = answer.get("x_groq")
        if usage is None and isinstance(groq, Mapping):
            usage = cast("JSONObject", groq).get("usage")
        if usage is not None:
            self._count(mapping(usage, "a completion's usage"))
        for choice in as_array(answer.get("choices"), "a completion's choices")[:1]:
            choice = mapping(choice, "a choice")
            whole = choice.get("message")
            delta = choice.get("delta") if whole is None else whole
            self._add(mapping(delta or {}, "a choice's message"), whole=whole is not None)
            self.finish_reason = str(choice.get("finish_reason") or self.finish_reason)

    def end(self) -> None:
        """Mark the end of the stream; some servers send no finish reason."""
        if self.begun:
            self.finish_reason = self.finish_reason or "stop"

    def error_of(self, event: Any) -> Any:
        """The error in an event; Groq sends it in ``x_groq``."""
        groq = cast("JSONObject", event).get("x_groq") if isinstance(event, Mapping) else None
        return super().error_of(event) or super().error_of(groq)

    def _count(self, usage: JSONObject) -> None:
        written, read = count_or(usage.get("completion_tokens")), count_or(usage.get("prompt_tokens"))
        whole = count_or(usage.get("total_tokens"))
        if None not in (written, read, whole):  # xAI counts reasoning only in the total
            written = max(cast("int", written), cast("int", whole) - cast("int", read))
        cached = count_in(usage, "prompt_tokens_details", "cached_tokens")
        cached = usage.get("prompt_cache_hit_tokens") if cached is None else cached  # DeepSeek's field name
        counts = {
            "num_tokens": written,
            "num_prompt_tokens": read,
            "num_cached_tokens": cached,
            "num_reasoning_tokens": count_in(usage, "completion_tokens_details", "reasoning_tokens"),
        }
        self.usage |= {name: count_or(value, self.usage.get(name)) for name, value in counts.items()}

    def _add(self, message: JSONObject, *, whole: bool) -> None:
        content = message.get("content")
        text, thought = _texts(content)
        texts = (*text, str(message.get("refusal") or ""))
        thoughts = (*thought, next((str(message[name]) for name in REASONING if message.get(name)), ""))
        calls = as_array(message.get("tool_calls"), "a message's tool calls")
        self._text += filter(None, texts)
        self._thoughts += filter(None, thoughts)
        self._has_parts = self._has_parts or isinstance(content, list)
        self._is_null = self._is_null and content is None
        self._parts += as_array(content, "a content") if isinstance(content, list) else text
        check_count(self._parts)
        for name, value in message.items():
            if name not in OWN_FIELDS and value is not None and value != []:
                self._fields.setdefault(name, Growing()).add(value)
        self.begun = self.begun or any(texts) or any(thoughts) or bool(calls)
        for delta in calls:
            delta = mapping(delta, "a tool call")
            (self._new_call(delta) if whole else self._call_of(delta)).add(delta)

    def _call_of(self, delta: JSONObject) -> _PartialCall:
        """The call that a stream's delta adds to."""
        index = as_place(delta.get("index"), "a tool call")
        known = self._calls_by_index.get(index) if index is not None else self._calls[-1] if self._calls else None
        if known is None:
            return self._new_call(delta)
        # Some servers send index 0, or none, for every call, and some a new id with every delta: a delta with both a
        # name and another id starts a new call.
        named = mapping(delta.get("function") or {}, "a tool call's function").get("name")
        return self._new_call(delta) if named and delta.get("id") not in (None, "", known.id) else known

    def _new_call(self, delta: JSONObject) -> _PartialCall:
        call = self._calls_by_index[as_place(delta.get("index"), "a tool call")] = _PartialCall()
        self._calls.append(call)
        check_count(self._calls)
        return call

    def pieces(self) -> Iterator[Piece]:
        """The reasoning with all other fields of the message, the text, and the calls."""
        text = "".join(self._text)
        fields = {name: value.whole() for name, value in self._fields.items()}
        if self._thoughts or fields:
            yield Piece("reasoning", "".join(self._thoughts), fields or None)
        if self._has_parts:
            yield Piece("text", text, {"content": joined_parts(self._parts)})
        elif text or self._calls:
            # Endpoints send null or empty content for a message with calls and without text.
            yield Piece("text", text, None if text else {"content": None if self._is_null else ""})
        for call in self._calls:
            yield call.piece()


class _PartialCall:
    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []
        self.fields: dict[str, Growing] = {}

    def add(self, delta: JSONObject) -> None:
        self.id = self.id or str(delta.get("id") or "")
        function = mapping(delta.get("function") or {}, "a tool call's function")
        name, arguments = function.get("name"), function.get("arguments")
        if name and name != self.name:  # some servers repeat the name with every delta
            self.name += str(name)
        if arguments:
            self.arguments.append(arguments if isinstance(arguments, str) else json.dumps(arguments))
        for key, value in delta.items():
            if key not in ("id", "type", "index", "function") and value is not None:
                self.fields.setdefault(key, Growing(grows=False)).add(value)

    def piece(self) -> Piece:
        arguments = "".join(self.arguments)
        function = {"name": self.name, "arguments": arguments if arguments.strip() else "{}"}
        fields = {key: value.whole() for key, value in self.fields.items()}
        sent = {"id": self.id, "type": "function", "function": function, **fields}
        return Piece("call", sent=sent, call_id=self.id, name=self.name, arguments=arguments)


def _texts(content: Any) -> tuple[list[str], list[str]]:
    """The text and the reasoning in a message's content, which is text or a list of parts."""
    if content is None or isinstance(content, str):
        return ([content] if content else []), []
    texts: list[str] = []
    thought: list[str] = []
    for part in as_array(content, "a message's content"):
        part = mapping(part, "a part of a message's content")
        if part.get("type") == "thinking":
            inner, _ = _texts(part.get("thinking"))
            thought += inner
        elif isinstance(part.get("text"), str):
            texts.append(part["text"])
    return texts, thought
