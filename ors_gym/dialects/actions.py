"""What a model wrote, read as tool calls or as a named failure that the model can be told.

An :class:`ActionParser` has one method, ``parse(text) -> Reply``; ten lines make your own. Four ways of writing
calls come with the library, named after the models that were trained on them:

==============  =====================================================================================================
``"hermes"``    ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, any number of them: Hermes, Qwen 2.5, Qwen 3
``"llama"``     ``{"name": …, "parameters": {…}}`` (several: separated by ``;``), ``<function=name>{…}</function>``
                (Llama 3), ``[name(argument=…), …]`` (Llama 3.2, 4)
``"mistral"``   ``[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`` and ``[TOOL_CALLS]name[ARGS]{…}``
``"openai"``    JSON of a chat-completions message, of its ``tool_calls``, or of one of them
``"plain"``     no calls at all: every message is plain text, for environments with nothing but a terminal tool
==============  =====================================================================================================

Three rules hold for all of them. Reasoning (``<think>…</think>``) is set apart first, so a call that is only thought
about is not made. Arguments are a JSON object, or a string that holds one; a call may leave them out. A message in
which one call cannot be read makes no call at all, so nothing is ever half done.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeAlias, cast

from ors_gym.trajectory import Reply
from ors_gym.types import ToolCall

__all__ = [
    "Action",
    "ActionParser",
    "HermesParser",
    "LlamaParser",
    "MistralParser",
    "OpenAIParser",
    "ParseReason",
    "PlainParser",
    "action_parser",
    "check_action",
    "read_action",
    "tool_call",
]

ParseReason: TypeAlias = Literal["invalid_json", "invalid_call", "unfinished_call", "no_tool_call"]
"""Why no call could be read; stands beside the reasons a server gives (``not_found``, ``input_validation``, …)."""

Action: TypeAlias = ToolCall | Mapping[str, Any] | str
"""What environments take: a call, the same as a mapping, or the text a model wrote."""


class ActionParser(Protocol):
    """Reads tool calls from the text a model wrote. It never raises on what the text holds."""

    def parse(self, text: str) -> Reply:
        """Take one message apart."""
        ...


class _UnreadableCallError(ValueError):
    """A call that cannot be read; becomes :attr:`Reply.error` where the message's parsing began."""

    def __init__(self, reason: ParseReason, why: str) -> None:
        super().__init__(reason, why)
        self.reason: ParseReason = reason
        self.why = why

    def __str__(self) -> str:
        return self.why


class _Parser:
    """What the formats share: reasoning is set apart, failures are put into words."""

    form: str
    """How a call should have been written, told to the model with an error."""

    def parse(self, text: str) -> Reply:
        """Take one message apart."""
        reasoning, body = _split_reasoning(_STOP_TOKENS.sub("", text))
        try:
            rest, calls = self._read(body)
        except _UnreadableCallError as unreadable:
            error = f"No tool was called: {unreadable.why}. Write a call as {self.form}"
            return Reply(body.strip(), (), error, unreadable.reason, reasoning)
        return Reply(rest.strip(), tuple(calls), reasoning=reasoning)

    def _read(self, body: str) -> tuple[str, Sequence[ToolCall]]:
        raise NotImplementedError


class HermesParser(_Parser):
    """``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, as Hermes, Qwen 2.5 and Qwen 3 write it."""

    form = '<tool_call>{"name": …, "arguments": {…}}</tool_call>'

    def _read(self, body: str) -> tuple[str, Sequence[ToolCall]]:
        rest: list[str] = []
        calls: list[ToolCall] = []
        end = 0
        while (start := body.find("<tool_call>", end)) >= 0:
            rest.append(body[end:start])
            value, end = _decode_json(body, start + len("<tool_call>"))
            calls.append(tool_call(value))
            # The closing tag is missing where it was the stop string. Text is only searched for it after the JSON,
            # so arguments may hold the tag itself.
            closing = _skip_space(body, end)
            if body.startswith("</tool_call>", closing):
                end = closing + len("</tool_call>")
            elif closing < len(body):
                raise _UnreadableCallError("invalid_json", f"{_excerpt(body, closing)} follows the call's JSON object")
        rest.append(body[end:])
        return "".join(rest), calls


class LlamaParser(_Parser):
    """The three forms of Llama 3 and 4; see the module's table.

    Llama marks its JSON calls by nothing but where they stand, so only a message that begins like a call is one.
    """

    form = '{"name": …, "parameters": {…}}'

    _json_call = re.compile(r'\s*\{\s*"(?:name|type|function)"\s*:')
    _python_call = re.compile(r"\s*\[\s*[A-Za-z_][\w.-]*\(")
    _tagged_call = re.compile(r"<function=([^>]+)>")

    def _read(self, body: str) -> tuple[str, Sequence[ToolCall]]:
        if self._json_call.match(body):
            return "", self._json_calls(body)
        before, tag, after = body.partition("<|python_tag|>")
        if tag:
            return before, self._json_calls(after)
        candidate = body.strip().removeprefix("<|python_start|>").removesuffix("<|python_end|>")
        if self._python_call.match(candidate):
            return "", _python_calls(candidate)
        return self._tagged_calls(body)

    @staticmethod
    def _json_calls(text: str) -> Sequence[ToolCall]:
        calls: list[ToolCall] = []
        end = 0
        while not calls or _skip_space(text, end, also=";") < len(text):
            value, end = _decode_json(text, _skip_space(text, end, also=";"))
            calls.append(tool_call(value))
        return calls

    def _tagged_calls(self, body: str) -> tuple[str, Sequence[ToolCall]]:
        rest: list[str] = []
        calls: list[ToolCall] = []
        end = 0
        while match := self._tagged_call.search(body, end):
            rest.append(body[end : match.start()])
            arguments, end = _decode_json(body, match.end())
            calls.append(tool_call({"name": match[1].strip(), "arguments": arguments}))
            closing = _skip_space(body, end)
            end = closing + len("</function>") if body.startswith("</function>", closing) else end
        rest.append(body[end:])
        return "".join(rest), calls


class MistralParser(_Parser):
    """``[TOOL_CALLS]`` followed by a JSON array of calls, or by ``name[ARGS]{…}``, which may be repeated.

    The marker is a special token that decoding may have removed: a message that begins like the array is one.
    """

    form = '[TOOL_CALLS][{"name": …, "arguments": {…}}]'

    _array = re.compile(r'\s*\[\s*\{\s*"(?:name|arguments)"\s*:')
    _name = re.compile(r"\s*([^\s\[{]+)\s*(?:\[CALL_ID\][^\[]*)?(?:\[ARGS\])?")

    def _read(self, body: str) -> tuple[str, Sequence[ToolCall]]:
        if self._array.match(body):
            return "", self._calls(body)
        before, marker, after = body.partition("[TOOL_CALLS]")
        return before, self._calls(after) if marker else ()

    def _calls(self, text: str) -> Sequence[ToolCall]:
        calls: list[ToolCall] = []
        end = 0
        while True:
            start = _skip_space(text, end)
            while text.startswith("[TOOL_CALLS]", start):
                start = _skip_space(text, start + len("[TOOL_CALLS]"))
            if start == len(text) and calls:
                return calls
            match = self._name.match(text, start)
            if match is None:
                value, end = _decode_json(text, start)
                calls.extend(_one_or_many(value))
            else:
                arguments, end = _decode_json(text, match.end())
                calls.append(tool_call({"name": match[1], "arguments": arguments}))


class OpenAIParser(_Parser):
    """JSON of a chat-completions message, of its ``tool_calls``, or of one tool call. Other text is plain.

    A client library's objects need no parser: :func:`tool_call` reads each of a message's ``tool_calls``.
    """

    form = '{"tool_calls": [{"type": "function", "function": {"name": …, "arguments": "{…}"}}]}'

    _json = re.compile(r'\s*(?:\[\s*)?\{\s*"(?:role|content|tool_calls|id|type|index|function|name)"\s*:')

    def _read(self, body: str) -> tuple[str, Sequence[ToolCall]]:
        if not self._json.match(body):
            return body, ()
        value, end = _decode_json(body, 0)
        if _skip_space(body, end) < len(body):
            raise _UnreadableCallError("invalid_json", f"{_excerpt(body, end)} follows the JSON")
        message: Mapping[str, Any] = _fields(value) if isinstance(value, dict) else {}
        if message.keys().isdisjoint(("role", "content", "tool_calls")):
            return "", _one_or_many(value)
        content = message.get("content") or ""
        text = content if isinstance(content, str) else json.dumps(content)
        return text, _one_or_many(message.get("tool_calls") or [])


class PlainParser(_Parser):
    """Nothing is a call: the whole message, without its reasoning, is the text."""

    form = "plain text"

    def _read(self, body: str) -> tuple[str, Sequence[ToolCall]]:
        return body, ()


_FORMATS: dict[str, type[_Parser]] = {
    "hermes": HermesParser,
    "qwen": HermesParser,
    "llama": LlamaParser,
    "mistral": MistralParser,
    "openai": OpenAIParser,
    "plain": PlainParser,
}


def action_parser(parser: str | ActionParser) -> ActionParser:
    """The parser of that name (see the module's table; ``"qwen"`` is ``"hermes"``), or the one given.

    Raises ValueError, with the names there are, for another name.
    """
    if not isinstance(parser, str):
        return parser
    if parser not in _FORMATS:
        raise ValueError(f"no action parser is called {parser!r}; there are {', '.join(sorted(_FORMATS))}")
    return _FORMATS[parser]()


def tool_call(value: Any) -> ToolCall:
    """Read one call from a mapping or an object, whichever of the usual words it uses.

    That is ``{"name", "input"}``, ``{"name", "arguments"}``, ``{"name", "parameters"}``, or an OpenAI tool call with
    these under ``function`` — as a mapping, or as the client library's object. Anything else is a ValueError, in
    words that a parser hands to the model.

    >>> tool_call({"type": "function", "function": {"name": "guess", "arguments": '{"word": "crane"}'}})
    ToolCall(name='guess', input={'word': 'crane'})
    """
    if isinstance(value, ToolCall):
        return value
    call = _fields(value)
    call_id = str(call.get("id") or "")
    if call.get("function") is not None and "name" not in call:
        call = _fields(call["function"])
    name = call.get("name")
    if not isinstance(name, str) or not name:
        raise _UnreadableCallError("invalid_call", f'the call has no "name", a string: {_excerpt(repr(value))}')
    arguments = next((call[word] for word in ("input", "arguments", "parameters") if word in call), None)
    if isinstance(arguments, str):
        if not arguments.strip():  # OpenAI's form of no arguments
            return ToolCall(name, {}, call_id)
        arguments, _ = _decode_json(arguments, 0, whole=True)
    if arguments is None:
        return ToolCall(name, {}, call_id)
    if not isinstance(arguments, Mapping):
        kind = type(arguments).__name__
        raise _UnreadableCallError("invalid_call", f"the arguments of {name!r} must be a JSON object, not {kind}")
    return ToolCall(name, dict(cast("Mapping[str, Any]", arguments)), call_id)


def check_action(action: Action) -> None:
    """Raise TypeError for what is no action at all, which is the caller's mistake and not the model's."""
    if not isinstance(action, ToolCall | Mapping | str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"an action is a ToolCall, a mapping with name and input, or text, not {type(action).__name__}")
    if isinstance(action, ToolCall) and not (isinstance(action.name, str) and isinstance(action.input, Mapping)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a ToolCall has a str and a mapping, got {action!r}")


def read_action(action: Action, parser: ActionParser, *, takes_plain_text: bool = False) -> Reply:
    """Read an environment's action: a call, a mapping, or text, which ``parser`` reads.

    Plain text is a failure with the reason ``no_tool_call`` unless the environment takes it, which is what a terminal
    tool is for. Never raises for what a model could have written; other types are a TypeError.
    """
    check_action(action)
    if isinstance(action, ToolCall):
        return Reply(tool_calls=(action,))
    if isinstance(action, Mapping):
        try:
            return Reply(tool_calls=(tool_call(action),))
        except _UnreadableCallError as unreadable:
            return Reply(error=f"No tool was called: {unreadable.why}.", reason=unreadable.reason)
    parsed = parser.parse(action)
    if parsed.tool_calls or parsed.error is not None or takes_plain_text:
        return parsed
    error = "No tool was called: the message holds no tool call, and this environment takes no plain answer."
    return replace(parsed, error=error, reason="no_tool_call")


_STOP_TOKENS = re.compile(r"(?:\s|<\|(?:im_end|eot_id|eom_id|eot|eom|endoftext|end_of_text)\|>|</s>)+\Z")

_END_OF_OPENED = re.compile(r"</think>")
# Without an opening tag in sight, only a tag that ends its line: the string of a call's argument may hold the tag too.
_END_OF_UNOPENED = re.compile(r"</think>[ \t]*(?:\n|\Z)")


def _split_reasoning(text: str) -> tuple[str, str]:
    """The reasoning and the message after it; the opening tag may have stood in the prompt, the closing be cut off."""
    opened = text.lstrip().startswith("<think>")
    end = (_END_OF_OPENED if opened else _END_OF_UNOPENED).search(text)
    if end is not None:
        return text[: end.start()].replace("<think>", "", 1).strip(), text[end.end() :]
    return (text.replace("<think>", "", 1).strip(), "") if opened else ("", text)


def _fields(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return cast("Mapping[str, Any]", value)
    fields = {
        word: getattr(value, word) for word in ("id", "name", "input", "arguments", "function") if hasattr(value, word)
    }
    if fields.keys() <= {"id"}:
        raise _UnreadableCallError("invalid_call", f"a call is a JSON object, not {type(value).__name__}")
    return fields


def _one_or_many(value: Any) -> Sequence[ToolCall]:
    if not isinstance(value, list):
        return [tool_call(value)]
    return [tool_call(call) for call in cast("Sequence[Any]", value)]


def _skip_space(text: str, start: int, also: str = "") -> int:
    while start < len(text) and (text[start].isspace() or text[start] in also):
        start += 1
    return start


def _excerpt(text: str, start: int = 0, length: int = 60) -> str:
    return text[start : start + length] + ("…" if len(text) > start + length else "")


def _no_constant(name: str) -> Any:
    raise _UnreadableCallError("invalid_json", f"{name} is not JSON")


# Models write line breaks into JSON strings, where the standard wants \n: read as meant.
_decoder = json.JSONDecoder(strict=False, parse_constant=_no_constant)


def _decode_json(text: str, start: int, *, whole: bool = False) -> tuple[Any, int]:
    """The JSON value at ``start``, and where it ends; ``whole``: nothing may follow it."""
    start = _skip_space(text, start)
    try:
        value, end = _decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        if error.pos >= len(text) or error.msg.startswith("Unterminated"):
            raise _UnreadableCallError(
                "unfinished_call", f"the message ends before {_excerpt(text, start)} does"
            ) from None
        why = f"{error.msg} at {_excerpt(text, error.pos)!r} in {_excerpt(text, start)}"
        raise _UnreadableCallError("invalid_json", why) from None
    except RecursionError:
        raise _UnreadableCallError("invalid_json", "the JSON is nested too deeply") from None
    if whole and _skip_space(text, end) < len(text):
        raise _UnreadableCallError("invalid_json", f"{_excerpt(text, end)!r} follows the JSON object of the arguments")
    return value, end


def _python_calls(text: str) -> Sequence[ToolCall]:
    """Read ``[name(argument=value), …]``: literals only, nothing is evaluated."""
    try:
        expression = ast.parse(text.strip(), mode="eval").body
        if not isinstance(expression, ast.List):
            raise ValueError("calls are written as one list")
        return [_python_call(element) for element in expression.elts]
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise _UnreadableCallError("invalid_call", f"{_excerpt(text)} is no list of calls ({error})") from None


def _python_call(element: ast.expr) -> ToolCall:
    if not isinstance(element, ast.Call):
        raise ValueError(f"{ast.unparse(element)} is no call")
    if element.args or any(keyword.arg is None for keyword in element.keywords):
        raise ValueError("arguments are given by name")
    arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in element.keywords}
    return ToolCall(ast.unparse(element.func), json.loads(json.dumps(arguments, allow_nan=False)))
