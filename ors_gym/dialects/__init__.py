"""Tool-call formats of model families, and detection of the format that a chat template uses.

``dialect_of(tokenizer)`` returns the :class:`Dialect` that reads the output of the tokenizer's chat template, verified
by parsing calls that the template rendered. ``dialect("hermes")`` returns one by name:

=================  ==================================================================================================
``hermes``         ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``: Hermes, Qwen 2.5, Qwen 3
``smollm``         the same with an array of calls: SmolLM 2
``llama``          ``{"name": …, "parameters": {…}}``, ``<function=name>{…}</function>``, ``[name(argument=…)]``
``xml``            ``<function=name><parameter=key>…``: Qwen 3.5, 3.6, 3.8, Qwen-Coder, Nemotron 3
``glm``            ``<tool_call>name<arg_key>…``: GLM 4.5 and later
``gemma``          ``<|tool_call>call:name{key:value}<tool_call|>``: Gemma 4
``harmony``        ``<|channel|>commentary to=functions.name…``: gpt-oss
``deepseek``       DeepSeek V3; ``deepseek-v3.1`` is the form of V3.1 and later
``lfm``            ``<|tool_call_start|>[name(key='value')]…``: LFM 2; ``lfm-raw`` is the form of LFM 2.5, unescaped
``muse``           ``<atem:invoke name="name">…``: Muse Glimmer
``mistral``        ``[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`` and ``[TOOL_CALLS]name[ARGS]{…}``
``openai``         JSON of a chat-completions message, of its ``tool_calls``, or of one of them
``plain``          no calls: every message is plain text, for environments with only a terminal tool
=================  ==================================================================================================
"""

from __future__ import annotations

from ors_gym.dialects.actions import Action, check_action, read_action
from ors_gym.dialects.base import Dialect
from ors_gym.dialects.calls import tool_call
from ors_gym.dialects.families import DIALECTS, dialect
from ors_gym.dialects.proof import dialect_of
from ors_gym.dialects.reading import Reading
from ors_gym.dialects.scanning import ParseReason, UnreadableCallError
from ors_gym.errors import UnknownDialectError

__all__ = [
    "DIALECTS",
    "Action",
    "Dialect",
    "ParseReason",
    "Reading",
    "UnknownDialectError",
    "UnreadableCallError",
    "check_action",
    "dialect",
    "dialect_of",
    "read_action",
    "tool_call",
]
