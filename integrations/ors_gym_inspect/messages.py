"""Conversion of messages, tools and answers between ORS and Inspect. No I/O.

Only Inspect's public modules are used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    Content,
    ContentImage,
    ContentReasoning,
    ContentText,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.tool import ToolCall as InspectCall
from inspect_ai.tool import ToolCallError, ToolInfo, ToolParams

from ors_gym.policies.names import ToolNames
from ors_gym.trajectory import Exchange, Reply
from ors_gym.types import (
    ImageBlock,
    Message,
    MessageBlock,
    ReasoningBlock,
    TextBlock,
    ToolCall,
    ToolCallBlock,
    ToolOutput,
    ToolResultBlock,
    ToolSpec,
)

__all__ = ["agent_message", "answers", "chat_messages", "reply_of", "tool_infos", "usage_of"]

PARSING = ("input_validation", "not_found")
"""Reasons of refused calls that Inspect classifies as parsing errors."""


def tool_infos(tools: Iterable[ToolSpec], names: ToolNames) -> list[ToolInfo]:
    """The tools in the format of Inspect's models.

    Inspect supports a subset of JSON Schema. If a schema uses more, the description ends with the complete schema.
    """
    return [_tool_info(tool, names.shown(tool.name)) for tool in tools]


def _tool_info(tool: ToolSpec, name: str) -> ToolInfo:
    schema = tool.parameters
    given = {**schema, "additionalProperties": schema.get("additionalProperties", True)}
    known = {key: value for key, value in given.items() if key in ToolParams.model_fields}
    try:
        parameters = ToolParams.model_validate(known)
    except ValueError:  # an unsupported schema
        parameters = ToolParams(additionalProperties=True)
    description = tool.description
    if parameters.model_dump(exclude_unset=True) != _without_titles(given):
        written = json.dumps(schema, ensure_ascii=False)
        description = f"{description}\n\nThe JSON Schema of its input: {written}".strip()
    return ToolInfo(name=name, description=description, parameters=parameters)


def _without_titles(value: Any, *, names: bool = False) -> Any:
    """A schema without titles; with ``names`` the keys are names of properties."""
    if isinstance(value, Mapping):
        kept = {key: inner for key, inner in value.items() if names or not (key == "title" and isinstance(inner, str))}
        return {key: _without_titles(inner, names=key == "properties" and not names) for key, inner in kept.items()}
    return [_without_titles(inner) for inner in value] if isinstance(value, list) else value


def chat_messages(messages: Iterable[Message], names: ToolNames) -> list[ChatMessage]:
    """A conversation in Inspect's format: tool results are separate messages, with their images."""
    wire: list[ChatMessage] = []
    called: dict[str, str] = {}
    for message in messages:
        if message.role == "assistant":
            called |= {call.id: names.shown(call.name) for call in message.tool_calls}
            wire.append(agent_message(message, names))
            continue
        for block in message.blocks:
            if isinstance(block, ToolResultBlock):
                error = ToolCallError("unknown", message.text) if block.is_error else None
                wire.append(_result(block.tool_call_id, called.get(block.tool_call_id), block.blocks, error))
        blocks = [block for block in message.blocks if not isinstance(block, ToolResultBlock)]
        if blocks:
            of_role = ChatMessageSystem if message.role == "system" else ChatMessageUser
            wire.append(of_role(content=_contents(blocks), source="input"))
    return wire


def agent_message(message: Message, names: ToolNames, model: str | None = None) -> ChatMessageAssistant:
    """A message of the agent."""
    calls = [InspectCall(call.id, names.shown(call.name), dict(call.input)) for call in message.tool_calls]
    blocks = [block for block in message.blocks if not isinstance(block, ToolCallBlock)]
    return ChatMessageAssistant(content=_contents(blocks), tool_calls=calls or None, model=model, source="generate")


def answers(exchange: Exchange, asked: Sequence[tuple[str, str]]) -> list[ChatMessage]:
    """The messages that answer the agent's message. ``asked`` has the id and name of each call as the model wrote it.

    A refused call is an error of its tool, with the environment's message.
    """
    reply = exchange.reply
    messages: list[ChatMessage] = []
    if reply.error is not None and asked:
        messages = [_result(*call, (), ToolCallError("parsing", reply.error)) for call in asked]
    elif reply.tool_calls:
        written = dict(zip((call.id for call in reply.tool_calls), asked, strict=False))
        for step in exchange.transitions:
            messages.append(_result(*written[step.action.id], step.output.shown, _error(step.output)))
    elif exchange.outputs:
        messages = [ChatMessageUser(content=_contents([block for each in exchange.outputs for block in each.shown]))]
    if exchange.notices:
        messages.append(ChatMessageUser(content=_contents(exchange.notices)))
    return messages


def _result(
    call_id: str, name: str | None, blocks: Sequence[MessageBlock], error: ToolCallError | None
) -> ChatMessageTool:
    return ChatMessageTool(content=_contents(blocks), tool_call_id=call_id, function=name, error=error)


def _error(output: ToolOutput) -> ToolCallError | None:
    if output.ok:
        return None
    return ToolCallError("parsing" if output.reason in PARSING else "unknown", output.text)


def _contents(blocks: Sequence[MessageBlock]) -> str | list[Content]:
    """Plain text if there are only text parts: some providers accept nothing else."""
    contents: list[Content] = []
    for block in blocks:
        match block:
            case TextBlock(text=text):
                contents.append(ContentText(text=text))
            case ImageBlock():
                contents.append(ContentImage(image=block.data_url))
            case ReasoningBlock(text=text, signature=signature):
                contents.append(ContentReasoning(reasoning=text, signature=signature))
            case ToolCallBlock() | ToolResultBlock():
                raise ValueError(f"a {block.type} block is not supported here")
    texts = [content.text for content in contents if isinstance(content, ContentText)]
    return "\n".join(texts) if len(texts) == len(contents) else contents


def reply_of(output: ModelOutput, names: ToolNames) -> Reply:
    """The reply of an Inspect model. A message with an unreadable call makes no call, as everywhere in ors-gym."""
    message = output.message
    contents = message.content_list
    reasoning = "\n".join(each.reasoning for each in contents if isinstance(each, ContentReasoning) and each.reasoning)
    calls = message.tool_calls or []
    unread = next((call.parse_error for call in calls if call.parse_error), None)
    return Reply(
        text=message.text,
        tool_calls=tuple(ToolCall(names.own(each.function), each.arguments, each.id) for each in calls if not unread),
        error=f"No tool was called: {unread}" if unread else None,
        reason="invalid_call" if unread else None,
        reasoning=reasoning,
        truncated=output.stop_reason in ("max_tokens", "model_length"),
        **_tokens(output.usage),
    )


def _tokens(usage: ModelUsage | None) -> dict[str, Any]:
    """A message's tokens as a reply counts them: cached input is part of the input."""
    if usage is None:
        return {}
    cached = usage.input_tokens_cache_read or 0
    return {
        "num_tokens": usage.output_tokens,
        "num_prompt_tokens": usage.input_tokens + cached + (usage.input_tokens_cache_write or 0),
        "num_cached_tokens": cached,
        "num_reasoning_tokens": usage.reasoning_tokens,
    }


def usage_of(replies: Iterable[Reply]) -> ModelUsage | None:
    """The tokens of an episode as Inspect counts them; None if no reply reports them."""
    counted = [reply for reply in replies if reply.num_tokens is not None or reply.num_prompt_tokens is not None]
    if not counted:
        return None
    read = sum(reply.num_prompt_tokens or 0 for reply in counted)
    kept = sum(reply.num_cached_tokens or 0 for reply in counted)
    written = sum(reply.num_tokens or 0 for reply in counted)
    thought = [reply.num_reasoning_tokens for reply in counted if reply.num_reasoning_tokens is not None]
    return ModelUsage(
        input_tokens=read - kept,
        output_tokens=written,
        total_tokens=read + written,
        input_tokens_cache_read=kept,
        reasoning_tokens=sum(thought) if thought else None,
    )
