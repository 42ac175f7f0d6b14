"""What a policy does when its endpoint refuses a request, against a real HTTP server."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from starlette.responses import JSONResponse

from ors_gym import ChatPolicy, Reply, TaskRef, Turn
from ors_gym.errors import EndpointError
from ors_gym.policies import EndpointRefusedError
from ors_gym.types import Message, TextBlock, ToolList
from tests.support.chat_server import ChatServer, refuses, says, serve_chat, stream

ASK = Turn("episode", TaskRef("counter", "train", 2), (Message("user", (TextBlock("Go"),)),), ToolList())


@pytest.fixture(scope="module")
def chat() -> Iterator[ChatServer]:
    with serve_chat() as server:
        yield server


def ask(chat: ChatServer, *answers: Any, **options: Any) -> Coroutine[Any, Any, Reply]:
    async def asked() -> Reply:
        async with ChatPolicy(chat.url, "m", **({"retry_seconds": 600.0} | options)) as policy:
            return await policy.act(ASK)

    chat.bodies.clear()
    chat.answers = list(answers)
    return asked()


def test_a_quota_that_is_spent_ends_the_run_at_once(chat: ChatServer, run: Callable):
    spent = JSONResponse({"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}, 429)

    with pytest.raises(EndpointRefusedError, match="You exceeded your current quota"):
        run(ask(chat, spent))
    assert len(chat.bodies) == 1


def test_a_flagged_input_fails_its_episode_alone(chat: ChatServer, run: Callable):
    flagged = JSONResponse({"error": {"message": "flagged", "metadata": {"reasons": ["violence"]}}}, 403)

    with pytest.raises(EndpointError, match="flagged"):
        run(ask(chat, flagged))


def test_max_tokens_is_halved_where_the_endpoint_gives_no_numbers(chat: ChatServer, run: Callable):
    no = refuses(400, "`max_tokens` is too large")

    assert run(ask(chat, no, no, says("done"), max_tokens=100)).text == "done"
    assert [body["max_tokens"] for body in chat.bodies] == [100, 50, 25]
    assert run(ask(chat, no, max_tokens=100)) == Reply(truncated=True)
    assert [body["max_tokens"] for body in chat.bodies] == [100, 50, 25, 12, 6, 3, 1]


def test_what_a_server_refuses_is_left_out_from_then_on(chat: ChatServer, run: Callable):
    no_usage = refuses(400, "Unrecognized request argument supplied: stream_options")

    assert run(ask(chat, no_usage, says("done"))).text == "done"
    assert ["stream_options" in body for body in chat.bodies] == [True, False]


def test_a_request_that_is_not_streamed_says_nothing_of_streams(chat: ChatServer, run: Callable):
    run(ask(chat, says("done"), options={"stream": False}))

    assert chat.bodies[0]["stream"] is False
    assert "stream_options" not in chat.bodies[0]


def test_an_endpoint_that_was_never_reached_ends_the_run_with_the_reason(
    run: Callable, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ors_gym.policies.endpoint.FIRST_CONTACT_SECONDS", 0.0)
    with pytest.raises(EndpointRefusedError, match="no connection"):
        run(ask(ChatServer("http://127.0.0.1:9")))

    monkeypatch.setattr("ors_gym.policies.endpoint.FIRST_CONTACT_SECONDS", 0.6)
    with pytest.raises(EndpointRefusedError, match="no connection"):
        run(ask(ChatServer("http://127.0.0.1:9")))
    assert "retrying for up to 0.6 s" in caplog.text


def test_an_endpoint_that_does_not_begin_to_answer_is_named_in_the_log(
    chat: ChatServer, run: Callable, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ors_gym.policies.endpoint.QUIET_SECONDS", 0.01)
    with pytest.raises(EndpointError, match="silent"):
        run(ask(chat, stream(hang=True), silence_seconds=0.3))
    assert f"{chat.url}/chat/completions with model m: no answer for 0.01 s" in caplog.text


def test_a_dialect_of_text_is_for_chat_completions():
    with pytest.raises(ValueError, match="parser requires api='openai'"):
        ChatPolicy("http://localhost", "m", api="anthropic", parser="hermes")
    with pytest.raises(ValueError, match="unknown API 'bard'; choose one of openai, responses, anthropic, google"):
        ChatPolicy("http://localhost", "m", api="bard")


@pytest.mark.parametrize(
    ("api", "address", "url"),
    [
        ("responses", "https://host", "https://host/v1/responses"),
        ("responses", "https://host/v1/responses", "https://host/v1/responses"),
        ("anthropic", "https://host", "https://host/v1/messages"),
        ("anthropic", "https://host/anthropic", "https://host/anthropic/v1/messages"),
        ("anthropic", "https://host/v1/messages", "https://host/v1/messages"),
        ("google", "https://host", "https://host/v1beta/models/m:streamGenerateContent"),
        ("google", "https://host/v1/models/x:generateContent?key=k", "https://host/v1/models/m:streamGenerateContent"),
    ],
)
def test_addresses_of_every_api_are_taken_as_people_write_them(api: str, address: str, url: str):
    assert ChatPolicy(address, "m", api=api).url == url
