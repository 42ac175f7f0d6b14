"""Requests and the doubles' answers against the types of the providers' own packages, which take seconds to import."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

import pytest
from pydantic import TypeAdapter

from ors_gym import ChatPolicy, EpisodeRunner, ORSClient, TaskRef
from tests.support.ors_servers import RunningServer
from tests.support.providers.anthropic import AnthropicDouble
from tests.support.providers.base import Double, Says, serve_stage
from tests.support.providers.google import GoogleDouble
from tests.support.providers.responses import ResponsesDouble

LOOK = Says("Hm.", thoughts="Let me look first.", calls=(("look", "{}"), ("jump", "{}")))
GAME = (LOOK, Says("Now.", calls=(("add", '{"amount": 1}'),)), Says("Again.", calls=(("add", '{"amount": 6}'),)))


def play(counter_server: RunningServer, double: Double, api: str, model: str) -> dict[str, Any]:
    """The last request of an episode."""

    async def played() -> None:
        policy = ChatPolicy(double.url, model, api=api, api_key=double.key, max_tokens=2000)
        async with ORSClient(counter_server.url) as client, policy:
            await EpisodeRunner(client, policy).run_episode(TaskRef("counter", "test", 0))

    asyncio.run(played())
    assert not double.refusals
    return double.bodies[-1]


@pytest.fixture(scope="module")
def stage():
    with serve_stage() as stage:
        yield stage


def test_anthropics_types_hold(stage, counter_server: RunningServer):
    types = importlib.import_module("anthropic.types")
    double = stage.put(AnthropicDouble(), *GAME)
    body = play(counter_server, double, "anthropic", "claude-opus-5-5")

    TypeAdapter(types.message_create_params.MessageCreateParamsStreaming).validate_python(body)
    whole = double.whole(LOOK, body)
    types.Message.model_validate(whole)
    for name, event in double.events(whole):
        if name != "ping":
            TypeAdapter(types.RawMessageStreamEvent).validate_python(event)


def test_openais_types_hold(stage, counter_server: RunningServer):
    types = importlib.import_module("openai.types.responses")
    double = stage.put(ResponsesDouble(), *GAME)
    body = play(counter_server, double, "responses", "gpt-5.6")

    TypeAdapter(types.response_create_params.ResponseCreateParamsStreaming).validate_python(body)
    whole = double.whole(LOOK, body)
    types.Response.model_validate(whole)
    for _, event in double.events(whole):
        TypeAdapter(types.ResponseStreamEvent).validate_python(event)


def test_googles_types_hold(stage, counter_server: RunningServer):
    types = importlib.import_module("google.genai.types")
    double = stage.put(GoogleDouble(), *GAME)
    body = play(counter_server, double, "google", "gemini-3.1-pro")

    for content in body["contents"]:
        types.Content.model_validate(content)
    for tool in body["tools"]:
        types.Tool.model_validate(tool)
    types.GenerationConfig.model_validate(body["generationConfig"])
    types.GenerateContentResponse.model_validate(double.whole(LOOK, body))
