"""Google's generateContent, for Gemini. No I/O.

https://ai.google.dev/api/generate-content. The parts of an answer are sent back unchanged, each with its
``thoughtSignature``. The results of a message's calls form one content, one for each call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, cast

from ors_gym.policies.answer import Answer, Finish, Piece, as_array, count_or
from ors_gym.policies.api import API, Request, in_turns, said_blocks, split_system
from ors_gym.policies.names import ToolNames
from ors_gym.policies.pieces import check_count
from ors_gym.types import (
    ImageBlock,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolCallBlock,
    ToolResultBlock,
    ToolSpec,
    text_of,
)
from ors_gym.types.shapes import JSONObject, mapping

__all__ = ["GoogleGenerateContent"]

TOP = frozenset({"safetySettings", "toolConfig", "generationConfig", "cachedContent", "labels", "serviceTier", "store"})
"""Options at the top level of a request; all others belong to its ``generationConfig``."""
NOT_SIGNED = "skip_thought_signature_validator"
"""The placeholder signature for calls that another model made."""
BEFORE_GEMINI_3 = re.compile(r"gemini-[12]\b|gemini-[12]\.")
FILTERS = "SAFETY RECITATION BLOCKLIST PROHIBITED_CONTENT SPII LANGUAGE IMAGE_SAFETY IMAGE_PROHIBITED_CONTENT BLOCKED"
MALFORMED = "MALFORMED_FUNCTION_CALL UNEXPECTED_TOOL_CALL MALFORMED_RESPONSE TOO_MANY_TOOL_CALLS"


class GoogleGenerateContent(API):
    """``POST /v1beta/models/MODEL:streamGenerateContent``."""

    name = "google"
    address = "https://generativelanguage.googleapis.com/v1beta"
    address_variable = "GOOGLE_GEMINI_BASE_URL"
    key_variables = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
    version = "/v1beta"
    limits = ("maxOutputTokens", "max_output_tokens", "max_tokens")

    def root(self, path: str) -> str:
        """The path of a URL, without the version, as the provider's own clients add it."""
        path = re.sub(r"/models(/.*)?$", "", path.rstrip("/"))
        return path if re.search(r"/v\d\w*(/|$)", path) else path + self.version

    def call(self, model: str, *, stream: bool) -> str:
        """The model's method, one for streams and one for whole answers."""
        return f"/models/{model}:streamGenerateContent?alt=sse" if stream else f"/models/{model}:generateContent"

    def headers(self, key: str) -> dict[str, str]:
        """The API's own key header."""
        return {"x-goog-api-key": key}

    def names(self, tools: Iterable[ToolSpec]) -> ToolNames:
        """The tools' names, each starting with a letter or ``_``."""
        return ToolNames(tools, letter_first=True)

    def body(self, request: Request) -> dict[str, Any]:
        """The request body."""
        system, rest = split_system(request.messages)
        body: dict[str, Any] = {"contents": _contents(rest, request)}
        if system:
            body["systemInstruction"] = {"parts": [{"text": system}]}
        if len(request.tools):
            declared = [
                {
                    "name": request.names.shown(tool.name),
                    "description": tool.description,
                    "parametersJsonSchema": tool.parameters,
                }
                for tool in request.tools
            ]
            body["tools"] = [{"functionDeclarations": declared}]
        options = dict(request.options)
        settings = {name: options.pop(name) for name in list(options) if name not in TOP}
        settings |= options.pop("generationConfig", {})
        if request.max_tokens is not None:
            settings["maxOutputTokens"] = request.max_tokens
        return body | options | ({"generationConfig": settings} if settings else {})

    def answer(self) -> Answer:
        """An empty candidate."""
        return GenerateContent()


def _contents(messages: Iterable[Message], request: Request) -> list[dict[str, Any]]:
    """The contents as alternating turns."""
    calls: dict[str, tuple[str, str | None]] = {}  # by our id: the name, and the model's id if it sent one

    def turns() -> Iterator[tuple[str, list[dict[str, Any]]]]:
        for message in messages:
            if message.role == "assistant":
                yield "model", list(_model_parts(message, request, calls))
                continue
            parts = [part for block in message.blocks for part in _user_parts(block, request, calls)]
            parts.sort(key=lambda part: "functionResponse" not in part)  # the responses come first
            yield "user", parts

    return in_turns(turns(), "parts", {"text": "Begin."})


def _model_parts(
    message: Message, request: Request, calls: dict[str, tuple[str, str | None]]
) -> Iterator[dict[str, Any]]:
    signed = False
    for block in message.blocks:
        sent = request.origin.kept(block)
        if isinstance(block, ToolCallBlock):
            if sent is not None:
                call = mapping(sent["functionCall"], "a function call")
                calls[block.id] = str(call.get("name")), call.get("id")
                yield sent
            else:
                name = request.names.shown(block.name)
                calls[block.id] = name, None
                rebuilt: dict[str, Any] = {"functionCall": {"name": name, "args": dict(block.input)}}
                yield rebuilt if signed else rebuilt | {"thoughtSignature": NOT_SIGNED}
            signed = True
        elif sent is not None:
            yield sent
        elif isinstance(block, TextBlock) and block.text:
            yield {"text": block.text}


def _user_parts(block: Any, request: Request, calls: Mapping[str, tuple[str, str | None]]) -> Iterator[dict[str, Any]]:
    if isinstance(block, ToolResultBlock):
        yield from _response(block, request, calls)
    elif isinstance(block, ImageBlock) or (isinstance(block, TextBlock) and block.text):
        yield _part(block)
    elif isinstance(block, ToolCallBlock | ReasoningBlock):
        raise ValueError(f"a {block.type} block belongs to the assistant, not to the user")


def _response(
    result: ToolResultBlock, request: Request, calls: Mapping[str, tuple[str, str | None]]
) -> Iterator[dict[str, Any]]:
    """The response to a call. Its images are part of it, or follow it for models before Gemini 3."""
    name, call_id = calls.get(result.tool_call_id, ("", None))
    answer = {"error" if result.is_error else "output": text_of(result.blocks)}
    response: dict[str, Any] = {"name": name, "response": answer}
    if call_id is not None:
        response["id"] = call_id
    images = [_part(block) for block in said_blocks(Message("user", result.blocks)) if isinstance(block, ImageBlock)]
    separate = BEFORE_GEMINI_3.search(request.model) is not None
    if images and not separate:
        response["parts"] = images
    yield {"functionResponse": response}
    if separate:
        yield from images


def _part(block: TextBlock | ImageBlock) -> dict[str, Any]:
    if isinstance(block, TextBlock):
        return {"text": block.text}
    return {"inlineData": {"mimeType": block.mime_type, "data": block.data}}


class GenerateContent(Answer):
    """A candidate, assembled from its parts; adjacent plain text is joined."""

    words: ClassVar[Mapping[str, Finish]] = {
        "STOP": Finish.DONE,
        "MAX_TOKENS": Finish.CUT,
        **dict.fromkeys(FILTERS.split(), Finish.FILTERED),
        **dict.fromkeys(MALFORMED.split(), Finish.MALFORMED),
    }

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[JSONObject] = []

    def feed(self, event: Any) -> None:
        """Process one chunk of a stream, or a complete answer."""
        fields = mapping(event, "an answer")
        for candidate in as_array(fields.get("candidates"), "candidates")[:1]:
            candidate = mapping(candidate, "a candidate")
            content = mapping(candidate.get("content") or {}, "a candidate's content")
            for part in as_array(content.get("parts"), "a content's parts"):
                self._parts.append(mapping(part, "a part"))
                self.begun = True
            check_count(self._parts)
            self.finish_reason = str(candidate.get("finishReason") or self.finish_reason)
        feedback = fields.get("promptFeedback")
        if isinstance(feedback, Mapping) and cast("JSONObject", feedback).get("blockReason"):
            self.finish_reason = "BLOCKED"
        usage = fields.get("usageMetadata")
        if usage is not None:
            self._count(mapping(usage, "a usage"))

    def _count(self, usage: JSONObject) -> None:
        written, thought = count_or(usage.get("candidatesTokenCount")), count_or(usage.get("thoughtsTokenCount"))
        counts = {
            "num_tokens": None if written is None and thought is None else (written or 0) + (thought or 0),
            "num_prompt_tokens": count_or(usage.get("promptTokenCount")),
            "num_cached_tokens": count_or(usage.get("cachedContentTokenCount")),
            "num_reasoning_tokens": thought,
        }
        self.usage |= {name: count_or(value, self.usage.get(name)) for name, value in counts.items()}

    def pieces(self) -> Iterator[Piece]:
        """One piece per part, and per run of text without signatures."""
        texts: list[str] = []
        kind: str | None = None
        for part in self._parts:
            thinks = part.get("thought") is True
            plain = part.keys() <= {"text", "thought"} and isinstance(part.get("text"), str)
            if texts and (not plain or kind != ("reasoning" if thinks else "text")):
                yield _text(texts, kind == "reasoning")
                texts = []
            if plain:
                kind = "reasoning" if thinks else "text"
                texts.append(part["text"])
            elif isinstance(part.get("functionCall"), Mapping):
                call = cast("JSONObject", part["functionCall"])
                call_id, name = str(call.get("id") or ""), str(call.get("name") or "")
                yield Piece("call", sent=part, call_id=call_id, name=name, arguments=call.get("args") or {})
            else:
                yield Piece("reasoning" if thinks or "text" not in part else "text", str(part.get("text") or ""), part)
        if texts:
            yield _text(texts, kind == "reasoning")


def _text(texts: Iterable[str], thinks: bool) -> Piece:
    text = "".join(texts)
    sent: JSONObject = {"text": text, "thought": True} if thinks else {"text": text}
    return Piece("reasoning" if thinks else "text", text, sent)
