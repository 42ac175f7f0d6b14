"""Episodes with models of several providers, each behind a server that refuses what the provider refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ors_gym import ChatPolicy, EpisodeRunner, ORSClient, StopReason, ToolSpec, Trajectory
from ors_gym.policies import EndpointRefusedError
from ors_gym.reporting.records import TrajectoryWriter, read_trajectories
from ors_gym.trajectory import Exchange
from ors_gym.types import Message, TextBlock
from tests.support.ors_servers import RunningServer
from tests.support.paths import ROOT
from tests.support.providers.base import Says, Stage
from tests.support.providers.chat import ChatDouble
from tests.support.providers.questions import APIS, GO, MAKERS, SYSTEM, TASK, answered, ask, policy_of, turn

GAME = (
    Says(thoughts="Let me look first.", calls=(("look", "{}"), ("jump", '{"height": 3}'))),
    Says("Now I add.", calls=(("add", '{"amount": 1}'),)),
    Says("And again.", calls=(("add", '{"amount": "a lot"}'), ("add", '{"amount": 2}'))),
)
"""Looks, calls a tool that there is not, adds, adds what is no amount, and counts to three."""


async def play(server: RunningServer, policy: ChatPolicy) -> Trajectory:
    async with ORSClient(server.url) as client, policy:
        return await EpisodeRunner(client, policy).run_episode(TASK)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("provider", MAKERS)
def test_an_episode_is_played_to_its_end_under_the_rules_of_the_provider(
    provider: str, stream: bool, stage: Stage, counter_server: RunningServer, run: Callable, tmp_path: Path
):
    double = stage.put(MAKERS[provider](), *GAME)

    trajectory = run(play(counter_server, policy_of(provider, double, stream=stream)))

    adapted = {"openai": 1, "mistral": 1}.get(provider, 0)  # refused once, and written otherwise from then on
    assert len(double.refusals) == adapted, double.refusals
    assert trajectory.stop_reason is StopReason.FINISHED
    assert [transition.output.ok for transition in trajectory.transitions] == [True, False, True, False, True]
    assert trajectory.rewards[-1] == 1.0
    replies = [exchange.reply for exchange in trajectory.exchanges]
    assert [reply.text for reply in replies] == ["", "Now I add.", "And again."]
    assert {(reply.num_prompt_tokens, reply.num_cached_tokens) for reply in replies} == {(100, 64)}
    assert {(reply.num_tokens, reply.num_reasoning_tokens) for reply in replies} == {(20, 12)}
    if provider not in ("openai", "gemini"):
        assert replies[0].reasoning == "Let me look first."
    with TrajectoryWriter(tmp_path / "run.jsonl") as writer:
        writer.write(trajectory)
    (read,) = read_trajectories(tmp_path / "run.jsonl")
    assert read.messages == trajectory.messages


SECOND_REQUESTS: dict[str, Any] = {
    "responses": [
        {"role": "user", "content": [{"type": "input_text", "text": "Go"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA0000"},
        {
            "type": "function_call",
            "id": "fc_1_0",
            "call_id": "call_1_0",
            "name": "look",
            "arguments": '{"where":"wall"}',
            "status": "completed",
        },
        {
            "type": "function_call",
            "id": "fc_1_1",
            "call_id": "call_1_1",
            "name": "look",
            "arguments": '{"where": "x"}',
            "status": "completed",
        },
        {
            "type": "function_call_output",
            "call_id": "call_1_0",
            "output": [
                {"type": "input_text", "text": "A picture:"},
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"},
            ],
        },
        {"type": "function_call_output", "call_id": "call_1_1", "output": "No such place."},
    ],
    "anthropic": [
        {"role": "user", "content": [{"type": "text", "text": "Go"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "", "signature": "EqQB0000"},
                {"type": "tool_use", "id": "toolu_1_0", "name": "look", "input": {"where": "wall"}},
                {"type": "tool_use", "id": "toolu_1_1", "name": "look", "input": {"where": "x"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1_0",
                    "content": [
                        {"type": "text", "text": "A picture:"},
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"},
                        },
                    ],
                },
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1_1",
                    "is_error": True,
                    "content": [{"type": "text", "text": "No such place."}],
                },
            ],
        },
    ],
    "google": [
        {"role": "user", "parts": [{"text": "Go"}]},
        {
            "role": "model",
            "parts": [
                {
                    "functionCall": {"id": "f10", "name": "look", "args": {"where": "wall"}},
                    "thoughtSignature": "Ci8B0000",
                },
                {"functionCall": {"id": "f11", "name": "look", "args": {"where": "x"}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {
                    "functionResponse": {
                        "id": "f10",
                        "name": "look",
                        "response": {"output": "A picture:"},
                        "parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}],
                    }
                },
                {"functionResponse": {"id": "f11", "name": "look", "response": {"error": "No such place."}}},
            ],
        },
    ],
}


def chat_request(first: dict[str, Any], call: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """What a second request of Chat Completions holds, where the provider sent these further fields."""
    functions = [{"name": "look", "arguments": text} for text in ('{"where":"wall"}', '{"where": "x"}')]
    calls = [{"id": f"call_1_{place}", "type": "function", "function": each} for place, each in enumerate(functions)]
    calls[0] |= call or {}
    return [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Go"},
        {"role": "assistant", "content": None, "tool_calls": calls, **first},
        {"role": "tool", "tool_call_id": "call_1_0", "content": "A picture:"},
        {"role": "tool", "tool_call_id": "call_1_1", "content": "No such place."},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
    ]


SECOND_REQUESTS |= {
    "deepseek": chat_request({"reasoning_content": ""}),
    "gemini": chat_request({}, {"extra_content": {"google": {"thought_signature": "sig-1"}}}),
    "openai": chat_request({}),
}


def test_the_requests_of_the_docs_are_those_that_are_sent():
    page = (ROOT / "docs" / "endpoints.md").read_text()
    shown = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)]
    assert shown == [SECOND_REQUESTS[name] for name in ("responses", "anthropic", "google", "deepseek", "gemini")]


@pytest.mark.parametrize("provider", SECOND_REQUESTS)
def test_the_second_request_holds_the_first_answer_as_it_came(provider: str, stage: Stage, run: Callable):
    looks = Says(calls=(("look", '{"where":"wall"}'), ("look", '{"where": "x"}')))
    double = stage.put(MAKERS[provider](), looks, Says("done"))

    async def two_turns() -> None:
        async with policy_of(provider, double, max_tokens=None) as policy:
            reply = await policy.act(turn(SYSTEM, GO))
            await policy.act(turn(*answered(reply)))

    run(two_turns())

    assert not double.refusals
    body = double.bodies[-1]
    assert body[{"responses": "input", "google": "contents"}.get(provider, "messages")] == SECOND_REQUESTS[provider]


def test_openrouters_thoughts_go_back_whole_and_in_order(stage: Stage, run: Callable):
    double = stage.put(MAKERS["openrouter"](), Says(thoughts="A long thought.", calls=(("look", "{}"),)), Says("done"))

    (reply,) = run(ask(policy_of("openrouter", double)))
    run(ask(policy_of("openrouter", double), turn(*answered(reply))))

    detail = {"type": "reasoning.text", "text": "A long thought.", "signature": "sig-1"}
    expected = {**detail, "index": 0, "format": "anthropic-claude-v1"}
    assert double.bodies[-1]["messages"][2]["reasoning_details"] == [expected]


def test_reasoning_is_left_out_on_request(stage: Stage, run: Callable):
    double = stage.put(ChatDouble(dialect="openrouter"), Says("Hm.", thoughts="hm"))
    (reply,) = run(ask(policy_of("openrouter", double)))
    message = Exchange(reply).said()

    for send in (None, False):
        run(ask(policy_of("openrouter", double, send_reasoning=send), turn(GO, message, GO)))

    kept, left_out = (body["messages"][1] for body in double.bodies[1:])
    assert kept["reasoning_details"][0]["text"] == "hm"
    assert left_out == {"role": "assistant", "content": "Hm."}


@pytest.mark.parametrize("provider", MAKERS)
@pytest.mark.parametrize("other", ["anthropic", "google", "responses", "deepseek"])
def test_a_conversation_of_another_provider_is_written_anew(provider: str, other: str, stage: Stage, run: Callable):
    """The doubles refuse whatever they did not send: signatures, encrypted thoughts, fields."""
    before = stage.put(MAKERS[other](), Says("Hm.", thoughts="hm", calls=(("look", "{}"), ("look", "{}"))))
    (reply,) = run(ask(policy_of(other, before)))
    double = stage.put(MAKERS[provider](), Says("done"))
    policy = policy_of(provider, double)
    policy.model = f"{policy.model}-next"  # the same endpoint, another model

    (last,) = run(ask(policy, turn(*answered(reply))))

    assert last.text == "done"
    assert len(double.refusals) <= 2
    assert "hm" not in str(double.bodies[-1]).replace("Hm.", "")


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("provider", ["openai", "responses", "anthropic", "google"])
def test_calls_of_an_answer_that_was_cut_off_are_not_made(provider: str, stream: bool, stage: Stage, run: Callable):
    double = stage.put(MAKERS[provider](), Says("Hm.", calls=(("look", "{}"),), cut=True))

    (reply,) = run(ask(policy_of(provider, double, stream=stream)))

    assert reply.truncated
    assert reply.tool_calls == ()
    assert reply.blocks == ()


@pytest.mark.parametrize("provider", APIS)
def test_a_wrong_key_ends_the_run(provider: str, stage: Stage, run: Callable):
    double = stage.put(MAKERS[provider](), Says("done"))

    with pytest.raises(EndpointRefusedError, match=r"(?i)api.key"):
        run(ask(policy_of(provider, double, api_key="sk-wrong-key")))
    assert len(double.bodies) == 1


@pytest.mark.parametrize("provider", ["anthropic", "google", "responses"])
def test_a_tool_of_any_name_and_schema_is_declared_as_the_provider_has_it(provider: str, stage: Stage, run: Callable):
    odd = ToolSpec("3d.view", "View.", {"anyOf": [{"required": ["a"]}, {"required": ["b"]}], "properties": {}})
    double = stage.put(MAKERS[provider](), Says(calls=((("3d_view" if provider != "google" else "_3d_view"), "{}"),)))

    (reply,) = run(ask(policy_of(provider, double), turn(tools=(odd, ToolSpec("end")))))

    assert not double.refusals
    assert [call.name for call in reply.tool_calls] == ["3d.view"]
    assert '"required": ["b"]' in json.dumps(double.bodies[0]["tools"]).replace('\\"', '"')


@pytest.mark.parametrize("provider", ["anthropic", "google", "responses"])
def test_a_conversation_without_a_word_of_the_user_is_begun(provider: str, stage: Stage, run: Callable):
    double = stage.put(MAKERS[provider](), Says("done"))
    messages = (SYSTEM, Message("assistant", (TextBlock("Welcome."),)))
    replies = run(
        ask(policy_of(provider, double), turn(messages[0]), turn(*messages, GO, Message("assistant", ()), GO))
    )

    assert [reply.text for reply in replies] == ["done", "done"]
    assert not double.refusals


# ------------------------------------------------------------------- limits


# ------------------------------------------------------------------- what ends an answer
