"""A policy behind a chat-completions endpoint, against a real HTTP server that streams."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable

import pytest
from starlette.responses import JSONResponse

from ors_gym import (
    ChatPolicy,
    EpisodeRunner,
    FailurePolicy,
    ORSClient,
    Reply,
    RolloutLimits,
    StopReason,
    ToolCall,
    ToolSpec,
    Trajectory,
    run_group,
)
from ors_gym.policies import EndpointRefusedError
from ors_gym.types import (
    ImageBlock,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolCallBlock,
    ToolResultBlock,
)
from tests.support.chat_questions import ASK, GUESS, KEY, TASK, ask, turn
from tests.support.chat_server import ChatServer, call_deltas, calls, chunk, refuses, says, stream, usage
from tests.support.ors_servers import RunningServer


def test_a_tool_call_is_put_together_from_its_streamed_pieces(chat: ChatServer, run: Callable):
    chat.answers = [calls(("guess", '{"word": "crane"}'), text="Let me guess.", tokens=17)]

    reply = run(ask(chat))

    assert reply == Reply("Let me guess.", (ToolCall("guess", {"word": "crane"}),), num_tokens=17, num_prompt_tokens=9)
    assert [call.id for call in reply.tool_calls] == ["call-0"]


def test_calls_that_are_streamed_at_once_keep_their_order_and_their_pieces(chat: ChatServer, run: Callable):
    one, two = call_deltas(0, "guess", '{"word": "crane"}'), call_deltas(1, "look", "{}")
    mixed = [one[0], two[0], one[1], two[1], one[2], two[2], *one[3:]]
    chat.answers = [stream(*map(chunk, mixed), chunk({}, "tool_calls"))]

    assert run(ask(chat)).tool_calls == (ToolCall("guess", {"word": "crane"}), ToolCall("look"))


def piece(name: str | None = None, arguments: object = None, **place: object) -> dict[str, object]:
    function = {"name": name, "arguments": arguments}
    return {**place, "function": {key: value for key, value in function.items() if value is not None}}


@pytest.mark.parametrize(
    "deltas",
    [
        [piece("look", "{}", id="a"), piece("guess", '{"word": "crane"}', id="b")],
        [piece("look", {}, index=0, id="a"), piece("guess", {"word": "crane"}, index=0, id="b")],
        [piece("look", id="a"), piece(None, "{}"), piece("guess", '{"word":', id="b"), piece(None, '"crane"}')],
        [
            piece("look", "{}", index=0, id="a"),
            piece("guess", '{"word":', index=1, id="b"),
            piece(None, '"crane"}', index=1, id="another"),
        ],
        [piece("look", "{}", index=0), piece("guess", '{"word":', index=1), piece("guess", '"crane"}', index=1)],
    ],
    ids=["no index", "always index 0", "no index, in pieces", "a new id each time", "the name each time"],
)
def test_servers_that_number_their_pieces_in_other_ways_are_understood(chat: ChatServer, run: Callable, deltas):
    chat.answers = [stream(*(chunk({"tool_calls": [delta]}) for delta in deltas), chunk({}, "tool_calls"))]

    assert run(ask(chat)).tool_calls == (ToolCall("look"), ToolCall("guess", {"word": "crane"}))


@pytest.mark.parametrize("stream_it", [True, False], ids=["a server that does not stream", "not streamed"])
def test_a_whole_answer_is_read_like_a_stream(chat: ChatServer, run: Callable, stream_it: bool):
    function = {"name": "guess", "arguments": '{"word": "crane"}'}
    message = {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [{"function": function}] * 2}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    chat.answers = [JSONResponse({"choices": [choice], "usage": {"completion_tokens": 3}})]

    reply = run(ask(chat, stream=stream_it))

    assert reply == Reply("", (ToolCall("guess", {"word": "crane"}),) * 2, reasoning="hm", num_tokens=3)
    assert chat.bodies[0]["stream"] is stream_it


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [('{"word": "cr', "unfinished_call"), ('{"word": crane}', "invalid_json"), ('["crane"]', "invalid_call")],
)
def test_unreadable_arguments_call_nothing_and_are_reported_to_the_model(
    chat: ChatServer, run: Callable, arguments: str, reason: str
):
    chat.answers = [calls(("look", "{}"), ("guess", arguments))]

    reply = run(ask(chat))

    assert reply.tool_calls == ()
    assert reply.reason == reason
    assert reply.error.startswith("No tool was called: ")
    assert f"guess({arguments})" in reply.text


@pytest.mark.parametrize(
    "deltas",
    [
        [{"reasoning_content": "think"}, {"reasoning_content": "ing"}, {"content": "crane"}],
        [{"reasoning": "thinking"}, {"content": "crane"}],
        [{"content": "<think>thinking</think>"}, {"content": "crane"}],
        [{"content": [{"type": "thinking", "thinking": [{"text": "thinking"}]}, {"type": "text", "text": "crane"}]}],
    ],
    ids=["vLLM", "OpenRouter", "unparsed", "Mistral"],
)
def test_reasoning_is_kept_apart_from_what_is_said(chat: ChatServer, run: Callable, deltas):
    chat.answers = [stream(*map(chunk, deltas), chunk({}, "stop"))]

    assert run(ask(chat)) == Reply("crane", reasoning="thinking")


def test_calls_in_the_text_are_read_for_a_server_that_does_not_parse_them(chat: ChatServer, run: Callable):
    chat.answers = [says('<tool_call>{"name": "guess", "arguments": {"word": "crane"}}</tool_call>')]

    assert run(ask(chat, parser="hermes")).tool_calls == (ToolCall("guess", {"word": "crane"}),)


def test_a_message_that_was_cut_off_by_a_token_limit_is_truncated(chat: ChatServer, run: Callable):
    deltas = call_deltas(0, "guess", '{"word": "cr')
    chat.answers = [stream(*map(chunk, deltas), chunk({}, "length"), usage(4))]

    reply = run(ask(chat))

    assert reply.truncated
    assert (reply.tool_calls, reply.num_tokens) == ((), 4)


# ------------------------------------------------------------------- what is sent


def test_the_conversation_goes_out_in_the_apis_words(chat: ChatServer, run: Callable):
    chat.answers = [says("crane")]
    messages = [
        Message("system", (TextBlock("Rules."),)),
        Message("user", (TextBlock("Look at"), ImageBlock("AAAA", "image/png"), TextBlock("this."))),
        Message(
            "assistant",
            (
                ReasoningBlock("hm"),
                TextBlock("Both."),
                ToolCallBlock("a", "look", {}),
                ToolCallBlock("b", "dig", {"n": 1}),
            ),
        ),
        Message(
            "user",
            (
                ToolResultBlock("a", (TextBlock("red"), ImageBlock("BBBB", "image/jpeg"))),
                ToolResultBlock("b", (TextBlock("no such tool"),), is_error=True),
            ),
        ),
        Message("assistant", (TextBlock("{"),)),
        Message("user", (TextBlock("No tool was called"),)),
    ]

    run(ask(chat, turn(messages)))

    def function(name: str, arguments: str) -> dict[str, object]:
        return {"name": name, "arguments": arguments}

    assert chat.bodies[0]["messages"] == [
        {"role": "system", "content": "Rules."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look at"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "text", "text": "this."},
            ],
        },
        {
            "role": "assistant",
            "content": "Both.",
            "tool_calls": [
                {"id": "a", "type": "function", "function": function("look", "{}")},
                {"id": "b", "type": "function", "function": function("dig", '{"n": 1}')},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "red"},
        {"role": "tool", "tool_call_id": "b", "content": "no such tool"},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,BBBB"}}],
        },
        {"role": "assistant", "content": "{"},
        {"role": "user", "content": "No tool was called"},
    ]


def test_earlier_thoughts_are_given_back_only_when_asked(chat: ChatServer, run: Callable):
    chat.answers = [says("crane")]
    messages = [*ASK, Message("assistant", (ReasoningBlock("hm"), TextBlock("well")))]

    run(ask(chat, turn(messages), send_reasoning=True))
    run(ask(chat, turn(messages)))

    kept, left_out = (body["messages"][1] for body in chat.bodies)
    assert kept["reasoning_content"] == "hm"
    assert left_out == {"role": "assistant", "content": "well"}


def test_the_tools_go_out_with_their_schemas_whole_and_options_as_given(chat: ChatServer, run: Callable):
    chat.answers = [says("crane")]

    run(ask(chat, turn(max_tokens=50), max_tokens=80, options={"temperature": 0.5, "seed": 7}))
    run(ask(chat, turn(tools=()), max_tokens_field="max_completion_tokens", max_tokens=80))
    run(ask(chat, turn(max_tokens=50), options={"max_completion_tokens": 80}))

    first, second, third = chat.bodies
    assert first["tools"] == [GUESS.to_openai()]
    assert (first["model"], first["max_tokens"], first["temperature"], first["seed"]) == ("m", 50, 0.5, 7)
    assert "tools" not in second
    assert second["max_completion_tokens"] == 80
    assert third["max_completion_tokens"] == 50
    assert "max_tokens" not in third


def test_tools_of_any_name_are_called_by_names_that_the_api_allows(chat: ChatServer, run: Callable):
    names = ["file.read", "file read", "file_read", "größe", "x" * 70]
    chat.answers = [calls(*((name, "{}") for name in ("file_read", "file_read_2", "file_read_3", "gr__e", "made_up")))]

    reply = run(ask(chat, turn(tools=[ToolSpec(name) for name in names])))

    shown = [tool["function"]["name"] for tool in chat.bodies[0]["tools"]]
    assert shown == ["file_read_2", "file_read_3", "file_read", "gr__e", "x" * 64]
    called = [call.name for call in reply.tool_calls]
    assert called == ["file_read", "file.read", "file read", "größe", "made_up"]


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_the_address_may_be_given_as_people_write_it(chat: ChatServer, run: Callable, path: str):
    chat.answers = [says("crane")]
    chat.url = chat.url.removesuffix("/v1") + path

    assert run(ask(chat)).text == "crane"


# ------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("localhost:8000", "m"), "must start with http"),
        (("http://me:secret@localhost", "m"), "must not hold credentials"),
        (("http://localhost", "m", {"max_tokens": 0}), "at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments, words: str):
    *places, options = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    with pytest.raises(ValueError, match=words):
        ChatPolicy(*places, **options)


# ------------------------------------------------------------------- whole episodes


def counts(body) -> object:
    """A model that looks once, says what it thinks, and adds until the environment has enough."""
    results = [message["content"] for message in body["messages"] if message["role"] == "tool"]
    if not results:
        return calls(("look", "{}"), tokens=3)(body)
    return calls(("add", json.dumps({"amount": 1})), text=f"So {results[-1]}.", tokens=4)(body)


async def play(chat: ChatServer, server: RunningServer, policy: ChatPolicy, **limits) -> Trajectory:
    async with ORSClient(server.url) as client, policy:
        return await EpisodeRunner(client, policy, limits=RolloutLimits(**limits)).run_episode(TASK)


def test_an_episode_is_played_to_its_end(chat: ChatServer, counter_server: RunningServer, run: Callable):
    chat.answers = [counts]

    trajectory = run(play(chat, counter_server, ChatPolicy(chat.url, "m")))

    assert trajectory.stop_reason is StopReason.FINISHED
    assert trajectory.rewards == (0.0, None, None, 1.0)
    assert trajectory.num_tokens == 15
    assert [message.text for message in trajectory.completion if message.role == "assistant"] == [
        "",
        "So count 0.",
        "So count 1.",
        "So count 2.",
    ]
    assert any(isinstance(part, dict) for part in chat.bodies[1]["messages"][-1]["content"])  # the picture


def test_an_episodes_token_limit_reaches_the_endpoint(chat: ChatServer, counter_server: RunningServer, run: Callable):
    chat.answers = [counts]

    trajectory = run(play(chat, counter_server, ChatPolicy(chat.url, "m", max_tokens=9), max_tokens=11))

    assert [body["max_tokens"] for body in chat.bodies] == [9, 8, 4]
    assert trajectory.stop_reason is StopReason.MAX_TOKENS


def test_a_pickled_policy_plays_in_another_process_or_loop(
    chat: ChatServer, counter_server: RunningServer, run: Callable
):
    chat.answers = [counts]
    policy = ChatPolicy(chat.url, "m", api_key=KEY)

    for copy in (policy, pickle.loads(pickle.dumps(policy)), policy):
        assert run(play(chat, counter_server, copy)).stop_reason is StopReason.FINISHED
    assert {headers["authorization"] for headers in chat.headers} == {f"Bearer {KEY}"}


def test_an_endpoint_that_breaks_an_episode_off_has_it_played_again(
    chat: ChatServer, counter_server: RunningServer, run: Callable
):
    chat.answers = [stream(chunk({"content": "cr"}), cut=True), counts]

    async def group():
        async with ORSClient(counter_server.url) as client, ChatPolicy(chat.url, "m") as policy:
            failures = FailurePolicy(retry_delay_seconds=0)
            return await run_group(EpisodeRunner(client, policy), TASK, 3, failures=failures)

    played = run(group())

    assert [failure.kind for failure in played.failures] == ["endpoint"]
    assert [member.stop_reason for member in played.members] == [StopReason.FINISHED] * 3
    assert not counter_server.live_sessions


def test_an_endpoint_that_refuses_ends_the_run_and_leaves_no_session(
    chat: ChatServer, counter_server: RunningServer, run: Callable
):
    chat.answers = [refuses(401)]

    with pytest.raises(EndpointRefusedError):
        run(play(chat, counter_server, ChatPolicy(chat.url, "m")))
    assert not counter_server.live_sessions


@pytest.mark.parametrize(
    ("parser", "said"),
    [("plain", {}), ("xml", {"tool_choice": "none"}), ("gemma", {"tool_choice": "none", "skip_special_tokens": False})],
)
def test_a_server_is_told_that_it_need_not_parse_calls(chat: ChatServer, run: Callable, parser, said):
    chat.answers = [says("crane")]

    run(ask(chat, parser=parser))

    asked = chat.bodies[0]
    assert {key: asked[key] for key in ("tool_choice", "skip_special_tokens") if key in asked} == said


def test_the_schemas_type_the_arguments_of_calls_in_the_text(chat: ChatServer, run: Callable):
    text = "<tool_call>\n<function=guess>\n<parameter=word>\n2\n</parameter>\n</function>\n</tool_call>"
    chat.answers = [says(text)]

    assert run(ask(chat, parser="xml")).tool_calls == (ToolCall("guess", {"word": "2"}),)
