"""Limits of tokens at several providers, and how their answers end."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from ors_gym import Reply
from ors_gym.errors import EndpointError
from ors_gym.policies import EndpointRefusedError
from tests.support.providers.anthropic import AnthropicDouble
from tests.support.providers.base import Says, Stage
from tests.support.providers.chat import ChatDouble
from tests.support.providers.google import GoogleDouble
from tests.support.providers.questions import GO, MAKERS, answered, ask, policy_of, turn
from tests.support.providers.responses import ResponsesDouble


@pytest.mark.parametrize(("limit", "asked"), [(8192, [8192, 1848]), (1000, [1000])])
def test_max_tokens_beyond_the_context_is_lowered_to_what_fits(
    limit: int, asked: list[int], stage: Stage, run: Callable, caplog: pytest.LogCaptureFixture
):
    double = stage.put(ChatDouble(dialect="vllm", context=2048), Says("done"))

    (reply,) = run(ask(policy_of("vllm", double, max_tokens=limit), turn(GO, GO)))

    assert reply.text == "done"
    assert not reply.truncated
    assert [body["max_tokens"] for body in double.bodies] == asked
    assert ("lowered to 1848" in caplog.text) == (len(asked) == 2)


def test_a_conversation_that_leaves_no_room_is_truncated(stage: Stage, run: Callable):
    double = stage.put(ChatDouble(dialect="vllm", context=2048), Says("done"))

    (reply,) = run(ask(policy_of("vllm", double), turn(*[GO] * 21)))

    assert reply == Reply(truncated=True)


def test_an_episode_with_too_few_tokens_left_is_truncated_and_a_limit_that_is_too_low_refused(
    stage: Stage, run: Callable
):
    double = stage.put(ResponsesDouble(), Says("done"))

    assert run(ask(policy_of("responses", double), turn(max_tokens=5))) == [Reply(truncated=True)]
    with pytest.raises(EndpointRefusedError, match="below minimum value"):
        run(ask(policy_of("responses", double, max_tokens=5)))


def test_anthropic_is_given_the_limit_it_wants_and_takes_another_version_by_header(stage: Stage, run: Callable):
    double = stage.put(AnthropicDouble(), Says("done"))
    run(ask(policy_of("anthropic", double, max_tokens=None, options={"temperature": 0.5})))
    assert (double.bodies[0]["max_tokens"], double.bodies[0]["temperature"]) == (8192, 0.5)

    newer = {"options": {"temperature": 0.5}, "headers": {"Anthropic-Version": "2026-10-21"}}
    with pytest.raises(EndpointRefusedError, match="Extra inputs are not permitted"):
        run(ask(policy_of("anthropic", double, **newer)))


def test_googles_settings_find_their_place(stage: Stage, run: Callable):
    double = stage.put(GoogleDouble(), Says("done"))
    options = {"temperature": 0.5, "safetySettings": [], "generationConfig": {"topK": 3}}

    run(ask(policy_of("google", double, options=options), turn(max_tokens=99)))

    body = double.bodies[0]
    assert body["generationConfig"] == {"temperature": 0.5, "topK": 3, "maxOutputTokens": 99}
    assert body["safetySettings"] == []


def test_images_follow_their_response_before_gemini_3(stage: Stage, run: Callable):
    double = stage.put(GoogleDouble(), Says(calls=(("look", "{}"), ("look", "{}"))), Says("done"))
    policy = policy_of("google", double)
    policy.model = "gemini-2.5-flash"

    async def two_turns() -> None:
        async with policy:
            await policy.act(turn(*answered(await policy.act(turn()))))

    run(two_turns())

    assert [list(part) for part in double.bodies[1]["contents"][-1]["parts"]] == [
        ["functionResponse"],
        ["functionResponse"],
        ["inlineData"],
    ]


SSE = {"media_type": "text/event-stream"}


def events(*items: Any) -> Response:
    return Response("".join(f"data: {json.dumps(item)}\n\n" for item in items), **SSE)


RESPONSE_ERROR = {"code": "server_error", "message": "try again"}


CANDIDATE = {"content": {"role": "model"}, "finishReason": "MALFORMED_FUNCTION_CALL"}


@pytest.mark.parametrize(
    ("provider", "answer", "words"),
    [
        ("anthropic", JSONResponse({"type": "message", "content": [], "stop_reason": "refusal"}), "content filter"),
        ("anthropic", JSONResponse({"type": "message", "content": [], "stop_reason": "new_reason"}), "new_reason"),
        ("google", JSONResponse({"promptFeedback": {"blockReason": "SAFETY"}}), "content filter"),
        ("google", JSONResponse({"candidates": [{"finishReason": "OTHER"}]}), "not a known finish reason"),
        ("google", events({"candidates": [{"content": {"parts": [{"text": "half"}]}}]}), "cut off before its end"),
        ("responses", JSONResponse({"status": "incomplete", "incomplete_details": {"reason": "steered"}}), "steered"),
        ("responses", events({"type": "response.output_item.added"}, {"type": "error", "message": "x"}), "aborted"),
        ("openai", JSONResponse({"choices": [{"message": {}, "finish_reason": "abort"}]}), "abort"),
        ("openai", JSONResponse({"choices": [{"message": {}, "finish_reason": "SAFETY"}]}), "content filter"),
    ],
)
def test_an_answer_without_a_proper_end_fails_the_episode(
    provider: str, answer: Response, words: str, stage: Stage, run: Callable
):
    double = stage.put(MAKERS[provider](), answer)

    with pytest.raises(EndpointError, match=words):
        run(ask(policy_of(provider, double, max_tokens=None)))


@pytest.mark.parametrize(
    ("provider", "answer"),
    [
        ("google", JSONResponse({"candidates": [CANDIDATE]})),
        (
            "openai",
            JSONResponse({"choices": [{"finish_reason": "function_call_filter: MALFORMED_FUNCTION_CALL"}]}),
        ),
    ],
)
def test_a_call_that_the_endpoint_could_not_read_is_reported_to_the_model(
    provider: str, answer: Response, stage: Stage, run: Callable
):
    double = stage.put(MAKERS[provider](), answer)

    (reply,) = run(ask(policy_of(provider, double, max_tokens=None)))

    assert (reply.tool_calls, reply.reason) == ((), "invalid_call")
    assert "could not parse the call" in reply.error


@pytest.mark.parametrize(
    ("provider", "answer"),
    [
        ("responses", events({"type": "response.failed", "response": {"error": RESPONSE_ERROR}})),
        ("anthropic", events({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})),
        ("gemini", events([{"error": {"status": "UNAVAILABLE", "message": "The model is overloaded."}}])),
        ("deepseek", JSONResponse({"choices": None})),
        ("deepseek", JSONResponse({"choices": [{"message": {}, "finish_reason": "insufficient_system_resource"}]})),
        ("deepseek", Response("<html>busy</html>", media_type="text/html")),
    ],
)
def test_transient_errors_are_retried_before_any_output(provider: str, answer: Response, stage: Stage, run: Callable):
    double = stage.put(MAKERS[provider](), answer, Says("done"))

    (reply,) = run(ask(policy_of(provider, double)))

    assert reply.text == "done"
    assert len(double.bodies) == 2


def test_a_call_of_vllm_that_was_cut_off_at_the_limit_is_not_made(stage: Stage, run: Callable):
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    choice = {"message": {"tool_calls": [call]}, "finish_reason": "tool_calls"}
    double = stage.put(
        ChatDouble(dialect="vllm"), JSONResponse({"choices": [choice], "usage": {"completion_tokens": 64}})
    )

    cut, whole = run(ask(policy_of("vllm", double), turn(max_tokens=64), turn(max_tokens=65)))

    assert (cut.truncated, cut.tool_calls) == (True, ())
    assert (whole.truncated, len(whole.tool_calls)) == (False, 1)


def test_tokens_that_a_provider_counts_in_the_total_alone_are_counted(stage: Stage, run: Callable):
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 40}
    choice = {"message": {"content": "hi"}, "finish_reason": "stop"}
    double = stage.put(ChatDouble(dialect="xai"), JSONResponse({"choices": [choice], "usage": usage}))

    (reply,) = run(ask(policy_of("xai", double)))

    assert reply.num_tokens == 30
