"""What goes wrong at a chat endpoint, and what becomes of the episode."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from starlette.responses import JSONResponse

from ors_gym import (
    ChatPolicy,
    Reply,
)
from ors_gym.errors import EndpointError
from ors_gym.policies import EndpointRefusedError
from ors_gym.types import (
    Message,
    TextBlock,
)
from tests.support.chat_questions import KEY, ask, turn
from tests.support.chat_server import ChatServer, chunk, refuses, says, stream


@pytest.mark.parametrize(
    "busy",
    [
        refuses(429, headers={"Retry-After": "0"}),
        refuses(503, headers={"Retry-After": "0"}),
        refuses(500, headers={"Retry-After": "0"}),
        stream(done=False),
        stream(cut=True),
        stream({"error": {"message": "overloaded", "code": 529}}),
    ],
    ids=["429", "503", "500", "an answer without anything", "cut before anything", "busy, in the stream"],
)
def test_a_request_to_a_busy_endpoint_is_retried_before_any_output(chat: ChatServer, run: Callable, busy):
    chat.answers = [busy, says("crane")]

    assert run(ask(chat)).text == "crane"
    assert len(chat.bodies) == 2


def test_an_endpoint_that_stays_busy_fails_the_episode_when_its_time_is_up(chat: ChatServer, run: Callable):
    chat.answers = [refuses(429, "slow down", {"Retry-After": "60"})]

    with pytest.raises(EndpointError, match=r"answered 429: slow down \(1 attempt in 5 s\)"):
        run(ask(chat))
    assert len(chat.bodies) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (stream(chunk({"content": "cr"}), cut=True), "was cut off"),
        (stream(chunk({"content": "cr"}), done=False), "was cut off before its end"),
        (stream(chunk({"content": "cr"}), {"error": {"message": "out of memory"}}), "out of memory"),
        (stream("data: {oops\n\n"), "invalid answer from the endpoint"),
        (stream({"choices": "none"}), "invalid answer from the endpoint"),
        (stream(chunk({"tool_calls": [3]})), "invalid answer from the endpoint"),
        (JSONResponse([1]), "invalid answer from the endpoint"),
        (stream(chunk({}, "content_filter")), "content filter"),
    ],
)
def test_an_answer_that_breaks_off_or_is_invalid_fails_the_episode_and_is_not_requested_again(
    chat: ChatServer, run: Callable, answer, words: str
):
    chat.answers = [answer]

    with pytest.raises(EndpointError, match=words):
        run(ask(chat))
    assert len(chat.bodies) == 1


def test_an_endpoint_that_falls_silent_is_given_up(chat: ChatServer, run: Callable):
    chat.answers = [stream(chunk({"content": "cr"}), hang=True)]

    with pytest.raises(EndpointError, match=r"silent for 0\.2 s"):
        run(ask(chat, silence_seconds=0.2))


def test_an_answer_that_is_whole_counts_even_if_its_connection_is_left_hanging_or_cut(chat: ChatServer, run: Callable):
    whole = (chunk({"content": "crane"}), chunk({}, "stop"))
    chat.answers = [stream(*whole, hang=True), stream(*whole, cut=True)]

    assert [run(ask(chat, silence_seconds=0.2)).text for _ in range(2)] == ["crane"] * 2


def test_a_stream_that_ends_without_a_reason_is_whole(chat: ChatServer, run: Callable):
    chat.answers = [stream(chunk({"content": "crane"}))]

    assert run(ask(chat)).text == "crane"


def test_a_request_with_an_empty_stream_is_retried(chat: ChatServer, run: Callable):
    chat.answers = [stream(), says("crane")]

    assert run(ask(chat)).text == "crane"


def test_half_a_character_from_the_environment_does_not_break_the_run(chat: ChatServer, run: Callable):
    chat.answers = [says("crane")]

    assert run(ask(chat, turn([Message("user", (TextBlock("half \ud83d of it"),))]))).text == "crane"
    assert chat.bodies[0]["messages"][0]["content"] == "half ? of it"


def test_an_endpoint_that_is_not_there_is_waited_for_and_then_fails_the_episode(run: Callable):
    with pytest.raises(EndpointError, match="no connection"):
        run(ask(ChatServer("http://127.0.0.1:9"), retry_seconds=0))


@pytest.mark.parametrize(
    "refusal",
    [
        refuses(400, "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"),
        refuses(400, "Requested token count exceeds the model's maximum context length of 4096 tokens"),
        refuses(400, "the request exceeds the available context size"),
        refuses(413, "prompt is too long: 208310 tokens > 200000 maximum"),
        refuses(400, "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."),
        refuses(400, "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum"),
        refuses(422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097"),
    ],
    ids=["vLLM and OpenAI", "SGLang", "llama.cpp", "Anthropic", "Gemini", "Mistral", "Together"],
)
def test_a_conversation_too_long_for_the_model_truncates_the_episode(chat: ChatServer, run: Callable, refusal):
    chat.answers = [refusal]

    assert run(ask(chat)) == Reply(truncated=True)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, f"Incorrect API key: {KEY}"),
        (404, "no model m"),
        (400, "tools are not enabled"),
        (400, "description: string too long, maximum length 1024"),
    ],
)
def test_an_endpoint_that_refuses_the_first_request_ends_the_run_and_never_tells_the_key(
    chat: ChatServer, run: Callable, status: int, said: str
):
    chat.answers = [refuses(status, said)]

    with pytest.raises(EndpointRefusedError, match=f"with model 'm': the endpoint answered {status}") as refused:
        run(ask(chat, api_key=KEY))
    assert chat.headers[0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in str(refused.value)
    assert len(chat.bodies) == 1


def test_a_conversation_that_is_refused_later_fails_alone(chat: ChatServer, run: Callable):
    chat.answers = [says("crane"), refuses(400, "this image is broken")]

    async def twice() -> None:
        async with ChatPolicy(chat.url, "m") as policy:
            await policy.act(turn())
            with pytest.raises(EndpointError, match="this image is broken"):
                await policy.act(turn())

    run(twice())


def test_keys_are_in_no_repr_no_log_and_no_error(chat: ChatServer, run: Callable, caplog):
    caplog.set_level(logging.DEBUG)
    chat.url += "?key=open-sesame"
    chat.answers = [refuses(500, f"bad header {KEY} hunter-2 open-sesame", {"Retry-After": "99"})]
    options = {"api_key": KEY, "headers": {"X-Org": "hunter-2"}}

    with pytest.raises(EndpointError) as failed:
        run(ask(chat, **options))

    shown = f"{failed.value} {ChatPolicy(chat.url, 'm', **options)!r} {caplog.text}"
    assert "bad header" in shown
    assert not any(secret in shown for secret in (KEY, "hunter-2", "open-sesame"))
