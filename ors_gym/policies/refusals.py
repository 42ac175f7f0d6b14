"""What an endpoint's error means for the request, the episode and the run. No I/O.

Endpoints share statuses but not error formats: OpenAI's ``{"error": {"message", "code", "type"}}``, FastAPI's
``detail``, Anthropic's ``{"type": "error", "error": {…}}``, Google's ``details``, and OpenRouter's ``metadata.raw``
with the error of the upstream host.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, cast

from ors_gym.http.retry import retry_after_seconds
from ors_gym.types.shapes import JSONObject

__all__ = ["Refusal", "Room", "Verdict", "judge", "room_left"]


class Verdict(Enum):
    """The consequence of an error."""

    AGAIN = auto()
    """The endpoint is busy or down: retry the request."""
    TOO_LONG = auto()
    """The conversation does not fit the model."""
    LESS_OUTPUT = auto()
    """``max_tokens`` does not fit with the conversation, or exceeds the model's output limit."""
    MORE_OUTPUT = auto()
    """``max_tokens`` is below the endpoint's minimum."""
    EPISODE = auto()
    """The endpoint rejects this conversation."""
    RUN = auto()
    """The endpoint rejects the key, the model or further spending."""
    REQUEST = auto()
    """The endpoint rejects the request. Ends the run if it never accepted one, else the episode."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error and its consequence."""

    verdict: Verdict
    said: str
    after_seconds: float | None = None
    """Seconds to wait before a retry, if the endpoint sends them."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NO_MONEY = _words(
    "insufficient_quota billing_hard_limit_reached credit_balance_exhausted organization_spend_limit_exceeded"
    " project_spend_limit_exceeded organization_usage_limit_exceeded exceeded_current_quota_error billing_error"
    " billing_not_active insufficient_balance"
) | {"1113", *map(str, range(1308, 1322))}  # the latter are Z.ai's
NO_MONEY_TEXT = re.compile(
    r"(?i)credit balance is too low|reached your specified API usage limits|insufficient balance|insufficient_quota"
    r"|exceeded your current quota|enable billing|billing (account|is) (disabled|not)"
)
NEVER = re.compile(r"PerDay|limit: 0\b")
"""Google's terms for a quota that does not recover within minutes."""
FILTERED = _words(
    "content_filter content_policy_violation responsibleaipolicyviolation invalid_prompt cyber_policy bio_policy"
    " misalignment_policy_violation data_inspection_failed"
)
NO_KEY = frozenset({"api_key_invalid", "invalid_api_key", "authentication_error"})
NO_MODEL = re.compile(r"(?i)model_not_found|model .{0,80}(not exist|not found|not available)")
IMAGES = re.compile(r"(?i)support image|image input|could not process image|(invalid|unsupported|unreadable) image")
ITEM_GONE = re.compile(r"(?i)item with id .* not found")
TRANSIENT = _words(
    "server_error rate_limit_exceeded rate_limit_error overloaded overloaded_error api_error timeout_error unavailable"
    " resource_exhausted internal internal_error deadline_exceeded insufficient_system_resource"
)
TOO_LONG_CODES = _words(
    "context_length_exceeded exceed_context_size_error input_too_large request_too_large model_context_window_exceeded"
)
TOO_LONG = re.compile(
    r"(?i)context.?(length|window|size|limit)|prompt is too long|prompt.{0,40}tokens.{0,40}too (long|large)"
    r"|max_model_len|token count.{0,40}exceed|too many (input |prompt )?tokens|tokens.{0,40}must be <=|input_too_large"
    r"|input is too long|prompt exceeds max length|maximum prompt length|exceeded model token limit"
    r"|size exceeds the limit|reduce the length of the (messages|input|prompt)|current length is \d+ while limit"
    r"|max_tokens must be at least 1, got -|exceed_context_size|inputs\W+must have less than \d+ tokens"
)
NOT_TOO_LONG = re.compile(r"(?i)string_above_max_length|string too long")
OUTPUT = re.compile(
    r"(?i)max_?((completion|output|new)_?)?tokens|in the completion|for the completion|messages or completion"
    r"|output tokens|completion tokens|requested token count"
)
TOO_MUCH = re.compile(
    r"(?i)too large|exceed|at most|cannot be greater|(must be )?less than|must be <|supported range|maximum|while limit"
    r"|reduce the length|\d > \d"
)
TOO_LITTLE = re.compile(r"(?i)below minimum value|integer_below_min_value|must be at least (?!1, got -)\d+")
UNSUPPORTED = re.compile(r"(?i)unsupported|not supported|unrecognized|not permitted|unknown (field|name|parameter)")


def judge(status: int | None, headers: Mapping[str, str], answer: Any) -> Refusal:
    """Classify an error; ``status`` is None if it arrived inside a stream.

    ``answer`` is the JSON of the body, or its text if it is not JSON.
    """
    said = _said(answer)
    fields = list(_fields(answer))
    words = {str(value).lower() for name, value in fields if name in ("code", "type", "status", "reason")}
    text = " ".join([said, *(str(value) for name, value in fields if name in ("message", "code", "raw", "quotaId"))])
    if status is None:
        status = next((int(word) for word in sorted(words) if re.fullmatch("[45]\\d\\d", word)), 0)
    after = _after_seconds(headers, fields)
    return Refusal(_verdict(status, headers, words, text, {name for name, _ in fields}), said, after)


def _verdict(status: int, headers: Mapping[str, str], words: set[str], text: str, names: set[str]) -> Verdict:
    passing = status >= 500 or status in (408, 409, 425, 429) or (status == 0 and bool(words & TRANSIENT))
    if status in (401, 402) or words & (NO_MONEY | NO_KEY):
        return Verdict.RUN
    if NO_MONEY_TEXT.search(text) or (status == 429 and NEVER.search(text)):
        return Verdict.RUN
    if words & FILTERED or (status == 403 and names & {"reasons", "flagged_input"}):
        return Verdict.EPISODE
    if words & TOO_LONG_CODES and not OUTPUT.search(text):
        return Verdict.TOO_LONG
    if status in (0, 400, 413, 422, 500) or words & TOO_LONG_CODES:
        about_length = _length(text)
        if about_length is not None:
            return about_length
    if passing:
        return Verdict.RUN if headers.get("x-should-retry", "").lower() == "false" else Verdict.AGAIN
    if IMAGES.search(text) or ITEM_GONE.search(text):
        return Verdict.EPISODE
    return Verdict.RUN if status in (403, 404) or NO_MODEL.search(text) else Verdict.REQUEST


def _length(text: str) -> Verdict | None:
    """The verdict on an error about lengths; None for other errors."""
    if NOT_TOO_LONG.search(text):
        return None
    if OUTPUT.search(text) and not UNSUPPORTED.search(text):
        if TOO_LITTLE.search(text):
            return Verdict.MORE_OUTPUT
        if "got -" not in text and TOO_MUCH.search(text):
            return Verdict.LESS_OUTPUT
    return Verdict.TOO_LONG if TOO_LONG.search(text) else None


@dataclass(frozen=True, slots=True)
class Room:
    """The number of tokens available for an answer, according to an error."""

    tokens: int
    always: bool
    """Whether the number applies to every conversation."""


NUMBER = r"([\d,]+)"
CONTEXT = re.compile(
    rf"(?i)context (?:length|window|size|limit)\D{{0,30}}{NUMBER}|max_model_len\D{{0,3}}{NUMBER}"
    rf"|must be <= {NUMBER}|(?<!\d )limit:? (?:is )?{NUMBER}(?! \+)"
)
PROMPT = re.compile(
    rf"(?i){NUMBER} (?:tokens )?(?:in the messages|from the input|input tokens|`inputs` tokens|in (?:your|the) prompt"
    rf"|prompt tokens)|prompt contains at least {NUMBER}"
)
SUM = re.compile(rf"{NUMBER} \+ {NUMBER} > {NUMBER}")
"""Anthropic's format: input + max_tokens > limit."""
MAX_OUTPUT = re.compile(
    rf"(?i)at most {NUMBER}|> {NUMBER}, which is the maximum|less than or equal to `?{NUMBER}|to {NUMBER} \(exclusive\)"
)


def room_left(said: str) -> Room | None:
    """The number of tokens left for an answer, from the numbers in an error; None without known numbers."""
    summed = SUM.search(said)
    if summed is not None:
        return Room(_number(summed[3]) - _number(summed[1]), always=False)
    context, prompt = CONTEXT.search(said), PROMPT.search(said)
    if context is not None:
        read = 0 if prompt is None else _number(_group(prompt))
        return Room(_number(_group(context)) - read, always=False)
    most = MAX_OUTPUT.search(said)
    if most is None:
        return None
    return Room(_number(_group(most)) - ("exclusive" in most[0]), always=True)


def _group(match: re.Match[str]) -> str:
    return str(next(filter(None, match.groups())))


def _number(digits: str) -> int:
    return int(digits.replace(",", "")[:18] or 0)


def _fields(value: Any, depth: int = 6) -> Iterator[tuple[str, Any]]:
    """Every field of an error, including those of nested objects and of JSON in text."""
    if isinstance(value, str) and value.lstrip().startswith("{") and len(value) < 1 << 16:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return
    if depth == 0:
        return
    if isinstance(value, Mapping):
        for name, inner in cast("JSONObject", value).items():
            yield name, inner
            yield from _fields(inner, depth - 1)
    elif isinstance(value, list):
        items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
        for inner in items[:64]:
            yield from _fields(inner, depth - 1)


def _said(answer: Any) -> str:
    """The error message of the innermost server that sent one."""
    while isinstance(answer, Mapping | list):
        if isinstance(answer, list):
            items: list[Any] = answer  # pyright: ignore[reportUnknownVariableType]
            answer = items[0] if items else ""
            continue
        fields = cast("JSONObject", answer)
        metadata = fields.get("metadata")
        raw = cast("JSONObject", metadata).get("raw") if isinstance(metadata, Mapping) else None
        if isinstance(raw, str) and raw:
            return f"{fields.get('message', '')}: {raw}".removeprefix(": ")
        keys = ("error", "message", "detail")
        answer = next((fields[key] for key in keys if fields.get(key)), json.dumps(fields, default=str))
    return str(answer).strip()


def _after_seconds(headers: Mapping[str, str], fields: list[tuple[str, Any]]) -> float | None:
    milliseconds = headers.get("retry-after-ms", "")
    if re.fullmatch(r"\d{1,9}(\.\d*)?", milliseconds):
        return float(milliseconds) / 1000
    delay = retry_after_seconds(headers)
    if delay is not None:
        return delay
    delays = [value for name, value in fields if name == "retryDelay" and isinstance(value, str)]
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)s", delays[0]) if delays else None
    return None if match is None else float(match[1])
