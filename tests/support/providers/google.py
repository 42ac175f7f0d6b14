"""Google's generateContent with Gemini 3: https://ai.google.dev/api/generate-content, and its thought signatures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from starlette.requests import Request

from tests.support.providers.base import Double, RefusedError, Says, need, pieces

TOP = {"contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "safetySettings", "cachedContent"}
SETTINGS = {
    *("maxOutputTokens", "temperature", "topP", "topK", "seed", "stopSequences", "thinkingConfig", "candidateCount"),
    *("responseMimeType", "responseJsonSchema"),
}
PART = {"text", "thought", "thoughtSignature", "inlineData", "functionCall", "functionResponse"}
SUBSET = {"additionalProperties", "$ref", "$defs", "oneOf", "allOf", "const", "$schema", "prefixItems", "examples"}
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
SKIPPED = "skip_thought_signature_validator"


class GoogleDouble(Double):
    """The first call of each step carries its signature; a step has as many responses as calls, all in one content."""

    def streams(self, request: Request, body: Mapping[str, Any]) -> bool:
        return ":streamGenerateContent" in request.url.path and request.query_params.get("alt") == "sse"

    def check(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        need(headers.get("x-goog-api-key") == self.key, "API key not valid. Please pass a valid API key.")
        unknown = (body.keys() - TOP) | (body.get("generationConfig", {}).keys() - SETTINGS)
        for name in sorted(unknown):
            raise RefusedError(f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.')
        declared = [each for tool in body.get("tools", ()) for each in tool["functionDeclarations"]]
        for each in declared:
            need(NAME.fullmatch(each["name"]), "Invalid function name.")
            need(not {"parameters", "parametersJsonSchema"} <= each.keys(), "Only one of parameters may be set.")
            text = json.dumps(each.get("parameters", {}))
            need(not any(f'"{word}"' in text for word in SUBSET), "Unknown name in parameters: Cannot find field.")
        calling = body.get("toolConfig", {}).get("functionCallingConfig", {})
        need(declared or not calling, "Function calling config is set without function_declarations.")
        validated = calling.get("mode", "AUTO") in ("ANY", "VALIDATED")
        need(validated or not calling.get("allowedFunctionNames"), "allowed_function_names needs the mode ANY.")
        self._check_contents(body["contents"])

    def _check_contents(self, contents: list[dict[str, Any]]) -> None:
        calls: list[dict[str, Any]] = []
        asked = max((place for place, each in enumerate(contents) if is_asked(each)), default=-1)
        for place, content in enumerate(contents):
            need(content["role"] in ("user", "model"), "Please use a valid role: user, model.")
            need(content["parts"], "contents.parts must not be empty.")
            for part in content["parts"]:
                need(part.keys() <= PART, "Invalid JSON payload received. Unknown name: Cannot find field.")
            responses = [part["functionResponse"] for part in content["parts"] if "functionResponse" in part]
            need(
                len(responses) == len(calls),
                "Please ensure that the number of function response parts is equal to the number of function call "
                "parts of the function call turn.",
            )
            for call, response in zip(calls, responses, strict=True):
                need(isinstance(response["response"], dict), "Invalid value at 'response'")
                need("$ref" not in json.dumps(response["response"]), "A reference was not found.")
                need(response["name"] == call["name"], "The name of a function response is not that of its call.")
                need(response.get("id") == call.get("id"), "The id of a function response is not that of its call.")
            parts = [part for part in content["parts"] if "functionCall" in part]
            if parts:
                need(
                    place and contents[place - 1]["role"] == "user",
                    "Please ensure that function call turn comes immediately after a user turn or after a function "
                    "response turn.",
                )
            if parts and place > asked:
                name = parts[0]["functionCall"]["name"]
                missing = f"Function call is missing a thought_signature in functionCall parts. `default_api:{name}`"
                need("thoughtSignature" in parts[0], missing)
            for part in content["parts"]:
                signature = part.get("thoughtSignature", SKIPPED)
                need(signature == SKIPPED or self.knows(signature, unsigned(part)), "Corrupted thought signature.")
                call = part.get("functionCall")
                need(call is None or isinstance(call.get("args", {}), dict), "Invalid value at 'args'")
            calls = [part["functionCall"] for part in parts]
        need(contents[-1]["role"] == "user", "Please ensure that multiturn requests end with a user turn.")

    def whole(self, says: Says, body: Mapping[str, Any]) -> dict[str, Any]:
        number, parts = len(self.bodies), list[dict[str, Any]]()
        if says.thoughts:
            parts.append({"text": says.thoughts, "thought": True})
        if says.text:
            parts.append({"text": says.text})
        for place, (name, arguments) in enumerate(says.calls):
            part = {"functionCall": {"id": f"f{number}{place}", "name": name, "args": json.loads(arguments)}}
            parts.append(part if place else part | {"thoughtSignature": self.kept("Ci8B", part)})
        if says.text and not says.calls:
            parts.append({"text": "", "thoughtSignature": self.kept("Ci8B", {"text": ""})})
        usage = {
            "promptTokenCount": 100,
            "cachedContentTokenCount": 64,
            "candidatesTokenCount": 8,
            "thoughtsTokenCount": 12,
            "totalTokenCount": 120,
        }
        candidate = {"content": {"role": "model", "parts": parts}, "index": 0}
        candidate["finishReason"] = "MAX_TOKENS" if says.cut else "STOP"
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-3.1-pro"}

    def events(self, whole: Mapping[str, Any]) -> Iterator[tuple[None, Any]]:
        (candidate,) = whole["candidates"]
        for part in candidate["content"]["parts"]:
            plain = "text" in part and "thoughtSignature" not in part
            for piece in [part | {"text": text} for text in pieces(part["text"])] if plain else [part]:
                yield None, {"candidates": [{"content": {"role": "model", "parts": [piece]}, "index": 0}]}
        last = {"content": {"role": "model", "parts": []}, "finishReason": candidate["finishReason"], "index": 0}
        yield None, {"candidates": [last], "usageMetadata": whole["usageMetadata"]}

    def refusal(self, refused: RefusedError) -> Any:
        reason = [{"reason": "API_KEY_INVALID"}] if "API key" in refused.message else []
        error = {"code": refused.status, "message": refused.message, "status": "INVALID_ARGUMENT", "details": reason}
        return {"error": error}


def is_asked(content: Mapping[str, Any]) -> bool:
    """Whether a content is the user's and no response: the calls after it are checked for their signatures."""
    return content["role"] == "user" and not any("functionResponse" in part for part in content["parts"])


def unsigned(part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name != "thoughtSignature"}
