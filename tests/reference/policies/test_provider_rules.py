"""The providers' doubles refuse what breaks a rule: else it would prove nothing that they take our requests."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.providers.anthropic import AnthropicDouble
from tests.support.providers.base import Double, RefusedError, Says
from tests.support.providers.chat import ChatDouble
from tests.support.providers.google import GoogleDouble
from tests.support.providers.responses import ResponsesDouble

Change = Callable[[dict[str, Any]], object]
SAYS = Says("Hm.", thoughts="hm", calls=(("look", "{}"), ("look", '{"where": "x"}')))
SCHEMA = {"type": "object", "properties": {"where": {"type": "string"}}}
HEADERS = {
    "authorization": f"Bearer {Double.key}",
    "x-api-key": Double.key,
    "x-goog-api-key": Double.key,
    "anthropic-version": "2023-06-01",
}


def responses() -> tuple[Double, dict[str, Any]]:
    double = ResponsesDouble()
    user = {"role": "user", "content": [{"type": "input_text", "text": "Go"}]}
    tool = {"type": "function", "name": "look", "parameters": SCHEMA, "strict": False}
    body: dict[str, Any] = {"model": "m", "input": [user], "tools": [tool], "store": False}
    body["input"] += double.whole(SAYS, body)["output"]
    calls = [item["call_id"] for item in body["input"] if item.get("type") == "function_call"]
    body["input"] += [{"type": "function_call_output", "call_id": each, "output": "red"} for each in calls]
    return double, body


def anthropic() -> tuple[Double, dict[str, Any]]:
    double = AnthropicDouble()
    user = {"role": "user", "content": [{"type": "text", "text": "Go"}]}
    tools = [{"name": "look", "input_schema": SCHEMA}, {"name": "end", "input_schema": {"type": "object"}}]
    body: dict[str, Any] = {"model": "m", "system": "S", "max_tokens": 9, "messages": [user], "tools": tools}
    content = double.whole(SAYS, body)["content"]
    results = [{"type": "tool_result", "tool_use_id": block["id"]} for block in content if block["type"] == "tool_use"]
    text = {"type": "text", "text": "Well?"}
    body["messages"] += [{"role": "assistant", "content": content}, {"role": "user", "content": [*results, text]}]
    return double, body


def google() -> tuple[Double, dict[str, Any]]:
    double = GoogleDouble()
    tool = {"functionDeclarations": [{"name": "look", "parametersJsonSchema": SCHEMA}]}
    body: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "Go"}]}], "tools": [tool]}
    body["contents"].append(double.whole(SAYS, body)["candidates"][0]["content"])
    calls = [part["functionCall"] for part in body["contents"][1]["parts"] if "functionCall" in part]
    answers = [{"id": call["id"], "name": call["name"], "response": {"output": "red"}} for call in calls]
    body["contents"].append({"role": "user", "parts": [{"functionResponse": answer} for answer in answers]})
    return double, body


def chat(dialect: str) -> tuple[Double, dict[str, Any]]:
    double = ChatDouble(dialect=dialect)
    tools = [{"type": "function", "function": {"name": "look", "parameters": SCHEMA}}]
    messages: list[dict[str, Any]] = [{"role": "system", "content": "S"}, {"role": "user", "content": "Go"}]
    body: dict[str, Any] = {"model": "m", "messages": messages, "tools": tools, "stream": True}
    said = copy.deepcopy(double.whole(SAYS, body)["choices"][0]["message"])
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "red"} for call in said["tool_calls"]]
    body["messages"] += [said, *results]
    return double, body


def item(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    return next(each for each in body["input"] if each.get("type") == kind)


def block(place: int, kind: str, body: dict[str, Any]) -> dict[str, Any]:
    return next(each for each in body["messages"][place]["content"] if each["type"] == kind)


def part(place: int, kind: str, body: dict[str, Any]) -> dict[str, Any]:
    return next(each for each in body["contents"][place]["parts"] if kind in each)


SKIPPED = {
    "functionCall": {"id": "f00", "name": "look", "args": "{}"},
    "thoughtSignature": "skip_thought_signature_validator",
}


RESPONSES: list[tuple[str, Change]] = [
    ("messages", lambda body: body.update(messages=[])),
    ("max_tokens", lambda body: body.update(max_tokens=9)),
    ("name", lambda body: body["tools"][0].update(function={})),
    ("pattern", lambda body: body["tools"][0].update(name="a.b")),
    ("every property", lambda body: body["tools"][0].update(strict=True)),
    ("output_text", lambda body: body["input"][0]["content"][0].update(type="output_text")),
    ("image_url", lambda body: body["input"][0]["content"].append({"type": "input_image", "image_url": {}})),
    ("arguments", lambda body: item("function_call", body).update(arguments={})),
    ("No tool call", lambda body: body["input"].append({"type": "function_call_output", "call_id": "x"})),
    ("No tool output", lambda body: body["input"].pop()),
    ("following item", lambda body: body["input"].append(item("reasoning", body))),
    ("required 'reasoning'", lambda body: body["input"].pop(1)),
    ("not persisted", lambda body: item("reasoning", body).pop("encrypted_content")),
    ("encrypted content", lambda body: item("reasoning", body).update(encrypted_content="gBBB")),
    ("temperature", lambda body: body.update(temperature=1)),
    ("is_error", lambda body: body["input"][-1].update(is_error=True)),
    ("include_usage", lambda body: body.update(stream_options={"include_usage": True})),
]
ANTHROPIC: list[tuple[str, Change]] = [
    ("max_tokens", lambda body: body.pop("max_tokens")),
    ("pattern", lambda body: body["tools"][0].update(name="a.b")),
    ("unique", lambda body: body["tools"][1].update(name="look")),
    ("input_schema.type", lambda body: body["tools"][1]["input_schema"].pop("type")),
    ("oneOf", lambda body: body["tools"][1]["input_schema"].update(anyOf=[])),
    ("without `tool_result`", lambda body: body["messages"][2]["content"].pop(0)),
    ("unexpected", lambda body: body["messages"][0]["content"].insert(0, {"type": "tool_result", "tool_use_id": "x"})),
    ("first in", lambda body: body["messages"][2]["content"].reverse()),
    ("is_error", lambda body: body["messages"][2]["content"][0].update(is_error=True, content=[])),
    ("non-empty", lambda body: block(2, "text", body).update(text=" ")),
    ("object", lambda body: block(1, "tool_use", body).update(input="{}")),
    (
        "Expected `thinking`",
        lambda body: (body.update(thinking={"type": "adaptive"}), body["messages"][1]["content"].pop(0)),
    ),
    ("Invalid `signature`", lambda body: block(1, "thinking", body).update(signature="")),
    ("Invalid `signature`", lambda body: body.update(system="T")),
    ("Invalid `signature`", lambda body: body["messages"][0]["content"][0].update(text="Go!")),
    ("final block", lambda body: body["messages"][1]["content"].append(body["messages"][1]["content"].pop(0))),
    ("budget", lambda body: body.update(thinking={"type": "enabled", "budget_tokens": 9000})),
    (
        "media_type",
        lambda body: body["messages"][2]["content"].append({"type": "image", "source": {"media_type": "image/bmp"}}),
    ),
    ("first message", lambda body: body["messages"].pop(0)),
    ("prefill", lambda body: body["messages"].pop()),
]
GOOGLE: list[tuple[str, Change]] = [
    ("Unknown name", lambda body: body.update(stream=True)),
    ("Unknown name", lambda body: body.update(generationConfig={"max_tokens": 9})),
    ("valid role", lambda body: body["contents"][2].update(role="function")),
    ("empty", lambda body: body["contents"][0].update(parts=[])),
    ("number of function response", lambda body: body["contents"][2]["parts"].pop()),
    ("'response'", lambda body: part(2, "functionResponse", body)["functionResponse"].update(response="red")),
    ("'args'", lambda body: body["contents"][1]["parts"].__setitem__(2, SKIPPED)),
    ("name of", lambda body: part(2, "functionResponse", body)["functionResponse"].update(name="see")),
    ("id of", lambda body: part(2, "functionResponse", body)["functionResponse"].pop("id")),
    ("missing a thought_signature", lambda body: part(1, "functionCall", body).pop("thoughtSignature")),
    ("Corrupted", lambda body: part(1, "functionCall", body).update(thoughtSignature="x")),
    ("Only one", lambda body: body["tools"][0]["functionDeclarations"][0].update(parameters={})),
    ("function name", lambda body: body["tools"][0]["functionDeclarations"][0].update(name="3d")),
    (
        "without function_decl",
        lambda body: body.update(tools=[], toolConfig={"functionCallingConfig": {"mode": "ANY"}}),
    ),
    ("immediately after", lambda body: body["contents"].pop(0)),
    ("reference", lambda body: part(2, "functionResponse", body)["functionResponse"].update(response={"$ref": "a"})),
    ("end with a user", lambda body: body["contents"].pop()),
]
CHAT: list[tuple[str, Change]] = [
    ("stream", lambda body: body.update(stream=False, stream_options={})),
    ("Unrecognized", lambda body: body.update(max_output_tokens=9)),
    ("name", lambda body: body["tools"][0]["function"].update(name="a.b")),
    ("followed by", lambda body: body["messages"].insert(3, {"role": "user", "content": "x"})),
    ("response to", lambda body: body["messages"][-1].update(tool_call_id="x")),
    ("expected a string", lambda body: body["messages"][2]["tool_calls"][0]["function"].update(arguments={})),
    ("Image URLs", lambda body: body["messages"][-1].update(content=[])),
    ("beginning", lambda body: body["messages"].insert(1, {"role": "system", "content": "T"})),
]
DIALECTS: list[tuple[str, str, Change]] = [
    ("deepseek", "reasoning_content", lambda body: body["messages"][2].pop("reasoning_content")),
    ("gemini", "thought_signature", lambda body: body["messages"][2]["tool_calls"][0].pop("extra_content")),
    ("openrouter", "signature", lambda body: body["messages"][2]["reasoning_details"][0].pop("signature")),
    ("mistral", "thoughts", lambda body: body["messages"][2].update(content="Hm.")),
    ("mistral", "after role 'tool'", lambda body: body["messages"].append({"role": "user", "content": "x"})),
    ("mistral", "length of 9", lambda body: body["messages"][2]["tool_calls"][0].update(id="call_0")),
    ("openai", "max_completion_tokens", lambda body: body.update(max_tokens=9)),
]


@pytest.mark.parametrize(
    ("make", "words", "change"),
    [
        *((responses, *each) for each in RESPONSES),
        *((anthropic, *each) for each in ANTHROPIC),
        *((google, *each) for each in GOOGLE),
        *((lambda: chat("vllm"), *each) for each in CHAT),
        *((lambda dialect=dialect: chat(dialect), *each) for dialect, *each in DIALECTS),
    ],
)
def test_a_request_that_breaks_a_rule_is_refused(make: Callable[[], Any], words: str, change: Change):
    double, body = make()
    body = copy.deepcopy(body)
    double.check(body, HEADERS)

    change(body)

    with pytest.raises(RefusedError, match=words):
        double.check(body, HEADERS)


@pytest.mark.parametrize("make", [responses, anthropic, google, lambda: chat("openai")])
def test_a_key_is_required(make: Callable[[], Any]):
    double, body = make()
    with pytest.raises(RefusedError):
        double.check(body, {"anthropic-version": "2023-06-01"})


def test_anthropic_wants_a_version_and_takes_no_sampling_in_the_newest():
    double, body = anthropic()
    for headers in ({"x-api-key": Double.key}, HEADERS | {"anthropic-version": "2026-10-21"}):
        with pytest.raises(RefusedError, match=r"header is required|not permitted"):
            double.check(body | {"temperature": 1}, headers)
