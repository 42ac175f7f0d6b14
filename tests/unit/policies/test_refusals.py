"""What the errors of endpoints mean, in the words of those who send them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ors_gym.policies.refusals import Verdict, judge, room_left


def error(message: str = "no", **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


def google(message: str, *details: dict[str, Any], status: str = "INVALID_ARGUMENT") -> dict[str, Any]:
    return error(message, status=status, details=list(details))


RUN = [
    (401, error("Incorrect API key provided")),
    (400, google("API key not valid.", {"reason": "API_KEY_INVALID"})),
    (402, error("Insufficient Balance")),
    (403, error("You are not allowed to sample from this model")),
    (404, error("model: claude-none", type="not_found_error")),
    (404, error("The model 'm' does not exist", code="model_not_found")),
    (400, error("Model Not Exist", type="invalid_request_error")),
    (404, "<html>nginx</html>"),
    (429, error("You exceeded your current quota", code="insufficient_quota", type="insufficient_quota")),
    (429, error(code="billing_hard_limit_reached")),
    (429, error(code="credit_balance_exhausted", type="insufficient_quota")),
    (429, error(code="project_spend_limit_exceeded")),
    (429, error(type="exceeded_current_quota_error")),
    (
        429,
        google(
            "Quota exceeded", {"violations": [{"quotaId": "RequestsPerDayPerProject"}]}, status="RESOURCE_EXHAUSTED"
        ),
    ),
    (429, google("Quota exceeded for metric, limit: 0", status="RESOURCE_EXHAUSTED")),
    (429, error("no balance", code="1113")),
    (400, error("Your credit balance is too low to access the Anthropic API.")),
    (400, error("You have reached your specified API usage limits.")),
    (400, google("Please enable billing on the project", status="FAILED_PRECONDITION")),
]
EPISODE = [
    (400, error("The response was filtered", code="content_filter")),
    (400, error("Invalid prompt: flagged", code="invalid_prompt")),
    (400, error(code="content_policy_violation")),
    (403, error("Your input was flagged", metadata={"reasons": ["violence"], "flagged_input": "…"})),
    (404, error("No endpoints found that support image input")),
    (404, error("Item with id 'rs_1' not found. Items are not persisted when `store` is set to false.")),
    (400, error("Could not process image")),
]
TOO_LONG = [
    (400, error("Your input exceeds the context window of this model.", code="context_length_exceeded")),
    (400, error("This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens.")),
    (400, error("prompt is too long: 208310 tokens > 200000 maximum", type="invalid_request_error")),
    (413, error("Request exceeds the maximum size", type="request_too_large")),
    (400, google("The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).")),
    (400, google("Request payload size exceeds the limit: 20971520 bytes.")),
    (400, error("The input (5000 tokens) is longer than the model's context length (4096 tokens).")),
    (400, error("the request exceeds the available context size", type="exceed_context_size_error")),
    (400, error("max_tokens must be at least 1, got -5.")),
    (400, error("This model's maximum prompt length is 131072 but the request contains 140000 tokens.")),
    (400, error("Input is too long for requested model.")),
    (400, error("Prompt exceeds max length")),
    (400, error("Invalid request: Your request exceeded model token limit: 8192")),
    (422, error("`inputs` must have less than 4096 tokens. Given: 5000")),
    (400, error("Provider returned error", metadata={"raw": json.dumps(error(code="context_length_exceeded"))})),
    (None, error("too long", code="context_length_exceeded")),
]
LESS_OUTPUT = [
    "max_tokens=8192 cannot be greater than max_model_len=2048",
    "max_tokens is too large: 200000. This model supports at most 16384 completion tokens.",
    "max_tokens: 200000 > 64000, which is the maximum allowed number of output tokens",
    "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length",
    "`max_tokens` must be less than or equal to `8192`, its maximum is less than the context",
    "`inputs` tokens + `max_new_tokens` must be <= 4097. Given: 100 `inputs` tokens and 4096 `max_new_tokens`",
    "This model's maximum context length is 4097 tokens. However, you requested 5000 tokens (904 in the messages, 4096 "
    "in the completion). Please reduce the length of the messages or completion.",
    "Current length is 9000 while limit is 8192. Please reduce the length of the messages or completion.",
    "maxOutputTokens: the supported range is from 1 (inclusive) to 65537 (exclusive)",
]
AGAIN = [
    (429, error("Rate limit reached", code="rate_limit_exceeded")),
    (529, error("Overloaded", type="overloaded_error")),
    (503, google("The model is overloaded", status="UNAVAILABLE")),
    (None, error("Overloaded", type="overloaded_error")),
    (None, error("busy", code=503)),
    (None, [error("busy", status="UNAVAILABLE")]),
]
REQUEST = [
    (400, error("tools.0.description: string too long, maximum length 1024", code="string_above_max_length")),
    (400, error("Unsupported parameter: 'max_tokens' is not supported with this model.")),
    (422, {"detail": [{"msg": "field required"}]}),
]


@pytest.mark.parametrize(
    ("verdict", "status", "said"),
    [
        *((Verdict.RUN, *each) for each in RUN),
        *((Verdict.EPISODE, *each) for each in EPISODE),
        *((Verdict.TOO_LONG, *each) for each in TOO_LONG),
        *((Verdict.LESS_OUTPUT, 400, error(each)) for each in LESS_OUTPUT),
        *((Verdict.AGAIN, *each) for each in AGAIN),
        *((Verdict.REQUEST, *each) for each in REQUEST),
        (Verdict.MORE_OUTPUT, 400, error("Invalid 'max_output_tokens': integer below minimum value. Expected >= 16")),
    ],
)
def test_an_error_means_what_its_sender_means(verdict: Verdict, status: int | None, said: Any):
    assert judge(status, {}, said).verdict is verdict


def test_an_error_that_says_not_to_ask_again_ends_the_run():
    assert judge(500, {"x-should-retry": "false"}, error()).verdict is Verdict.RUN


@pytest.mark.parametrize(
    ("headers", "said", "seconds"),
    [
        ({"retry-after": "7"}, error(), 7.0),
        ({"retry-after-ms": "250", "retry-after": "7"}, error(), 0.25),
        ({}, google("busy", {"@type": "RetryInfo", "retryDelay": "14s"}), 14.0),
        ({}, error(), None),
        ({"retry-after-ms": "9" * 400}, {"error": {"retryDelay": "never"}}, None),
    ],
)
def test_when_to_ask_again_is_read_wherever_it_stands(headers: dict[str, str], said: Any, seconds: float | None):
    assert judge(429, headers, said).after_seconds == seconds


@pytest.mark.parametrize(
    ("said", "tokens", "always"),
    [
        (LESS_OUTPUT[0], 2048, False),
        (LESS_OUTPUT[1], 16384, True),
        (LESS_OUTPUT[2], 64000, True),
        (LESS_OUTPUT[3], 10000, False),
        (LESS_OUTPUT[4], 8192, True),
        (LESS_OUTPUT[5], 3997, False),
        (LESS_OUTPUT[6], 3193, False),
        (LESS_OUTPUT[8], 65536, True),
        (
            "This model's maximum context length is 2048 tokens. However, you requested 8192 output tokens and your "
            "prompt contains at least 100 input tokens, for a total of at least 8292 tokens.",
            1948,
            False,
        ),
        (
            "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of "
            "5000 tokens: 904 tokens from the input messages and 4096 tokens for the completion.",
            3192,
            False,
        ),
    ],
)
def test_the_room_for_an_answer_is_read_from_the_numbers_of_the_error(said: str, tokens: int, always: bool):
    room = room_left(said)
    assert room is not None
    assert (room.tokens, room.always) == (tokens, always)


def test_an_error_without_known_numbers_leaves_the_room_open():
    assert room_left("`max_tokens` is too large") is None


@pytest.mark.parametrize(
    "said", ["[" * 100_000, '{"a":' * 5_000, {"error": {"metadata": {"raw": '{"a":' * 9_000}}}, [], [[]]]
)
def test_an_error_of_any_form_is_read(said: Any):
    assert judge(500, {}, said).verdict is Verdict.AGAIN
