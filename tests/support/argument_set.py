"""Calls whose arguments readers of model text lose or change: each is one argument, with the schema of its tool."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ors_gym.types import ToolCall, ToolSpec

__all__ = ["MARKS", "Case", "argument_set"]

Case = tuple[ToolCall, ToolSpec]

PROGRAM = "\n".join(
    f'def f{n}(a, b="x{n}"):\n    """Return {{a}} <b> & \'c\'."""\n    return [a[{n}], {{"k": b}}, a < {n}]  # {n}%\n'
    for n in range(200)
)
STRINGS = [
    *("2", "2.0", "007", "true", "False", "null", "None", "NaN"),
    *("1e5", "-0", " 2 ", "'q'", "[x]"),
    *("", "two\nlines\n", "\nx", "\n", " lead", "trail ", "   ", "\tx\ty\t", "a\r\nb\r\n"),
    *("ünï → 😀", "a\u2028b\u0085c", "\u00a0x\u00a0", "a\u0000\u001bb"),
    *('{"a": 1}', "[1, 2]", '"q"', "it's", 'say "hi"', 'it\'s "both"', "C:\\new\\table", "\\d+\\n$"),
    *("<b>a &amp; 'b'</b>", "1,2) ]; f(x=1)", "2024-01-01", "}}{{%}", "```json\n{}\n```", PROGRAM),
    *("<tool_call>", "</tool_call>", "</parameter>", "\n</parameter>\n<parameter=n>\n5\n</parameter>\n"),
    *("</function>", "</arg_value>", "<|im_end|>", "<think>hm</think>"),
]
MARKS = {
    "hermes": ["<tool_call>\n{}\n</tool_call>", '</tool_call>\n<tool_call>{"name": "f"}', '"}}</tool_call>'],
    "xml": ["<function=f>", "</parameter>\n</function>\n</tool_call>", "</parameter> x", "<parameter=s>"],
    "glm": ["<arg_key>n</arg_key>", "</arg_value>\n</tool_call>", "<arg_value>", "</arg_value> x"],
    "gemma": ['<|"|>', "<tool_call|>", "},n:5}", "<|tool_call>call:f{}", "<|tool_response>"],
    "harmony": ["<|call|>", "<|end|>", "<|message|>", "<|channel|>final<|message|>"],
    "llama": ["<|python_tag|>", '"; {"name": "f"}', "<|eot_id|>", "<function=f>{}</function>"],
    "deepseek": ["<｜tool▁call▁end｜>", "```<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "<｜end▁of▁sentence｜>"],  # noqa: RUF001
    "lfm": ["<|tool_call_end|>", ")]<|tool_call_end|>", "', n=5", "]"],
    "lfm-raw": ["<|tool_call_end|>", ")]<|tool_call_end|>", "x', n='5", "]"],
    "kimi": [
        "<|tool_call_end|>",
        "<|tool_calls_section_end|>",
        "<|tool_call_begin|>functions.f:0",
        '"}<|tool_call_end|>',
    ],
    "minimax": ["</parameter>\n</invoke>", "</minimax:tool_call>", '<parameter name="n">', "</parameter> x"],
    "minimax-m1": ["</tool_calls>", '"}}\n</tool_calls>', '<tool_calls>\n{"name": "f"}'],
    "deepseek-v3.1": ["<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "<｜end▁of▁sentence｜>"],  # noqa: RUF001
    "deepseek-v3.2": ["</｜DSML｜parameter>", "</｜DSML｜invoke>", "</｜DSML｜function_calls>"],  # noqa: RUF001
    "deepseek-v4": ["</｜DSML｜parameter>", "</｜DSML｜invoke>", "</｜DSML｜tool_calls>"],  # noqa: RUF001
    "hunyuan": ["</tool_calls>", '"}}]</tool_calls>', '<tool_calls>[{"name": "f"}]'],
    "hunyuan-3": [
        "</arg_value:opensource>",
        "</tool_call:opensource>",
        "</arg_value:opensource>\n<arg_key:opensource>",
    ],
    "command": ["<|END_ACTION|>", "<|START_ACTION|>[", "<|END_RESPONSE|>", '"}}]<|END_ACTION|>'],
    "mistral": ["[TOOL_CALLS]", "[TOOL_CALLS]f[ARGS]{}", "[ARGS]", "[/THINK]", "</s>"],
    "muse": [
        "</atem:parameter>",
        '<atem:invoke name="f">',
        "</atem:function_calls>",
        "<|eot|>",
        "<|eom|>",
        "<|message|>",
    ],
}
"""Each dialect's own marks, as text."""

INTEGER_OR_STRING = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
NULLABLE = {"type": ["string", "null"]}
TYPED: list[tuple[dict[str, Any], Any]] = [
    *(({"type": "integer"}, value) for value in (2, -7, 10**30)),
    *(({"type": "number"}, value) for value in (2.5, 2.0, -0.0, 1e300, 1e-7)),
    *(({"type": "boolean"}, value) for value in (True, False)),
    *((NULLABLE, value) for value in (None, "null", "x")),
    *(({"anyOf": [{"type": "integer"}, {"type": "null"}]}, value) for value in (None, 3)),
    *(({}, value) for value in (2, "2", "plain")),
    *((INTEGER_OR_STRING, value) for value in (2, "2", "x")),
    ({"enum": ["red", "green"]}, "red"),
    *(
        ({"type": "object"}, value)
        for value in ({}, {"a": {"b": [1, {"c": None}]}, "d": "2"}, {"t": True, "x": "a\nb"})
    ),
    *(
        ({"type": "array"}, value)
        for value in ([], ["2", "it's"], [1, "1", 1.0, None, True], [{"a": "x"}, {"a": 'y"'}])
    ),
    ({"type": "array"}, [[[]], {"k": ["a, b", "c)]"]}]),
]
KEYS = ["a b", "a.b", "a-b", "ключ"]
NAMES = ["noargs", "a.b", "do-it", "mcp__fs__read", "fs/read"]
N = {"type": "integer"}


def argument_set(dialect: str) -> Iterator[Case]:
    """The calls for a dialect: the same for all, and its own marks."""
    for text in (*STRINGS, *MARKS[dialect]):
        yield _case("f", {"s": text, "n": 12}, s={"type": "string"}, n=N)
    for schema, value in TYPED:
        yield _case("f", {"v": value, "n": 12}, v=schema, n=N)
    yield _case("f", {"n": 1}, n=N, m=N)  # an argument left out
    yield _case("f", {"b": "x", "a": "y"}, a={"type": "string"}, b={"type": "string"})
    for key in KEYS:
        yield _case("f", {key: "x"}, **{key: {"type": "string"}})
    for name in NAMES:
        yield _case(name, {})


def _case(name: str, arguments: dict[str, Any], **properties: dict[str, Any]) -> Case:
    # Some templates insist on descriptions, and on types that are names.
    return ToolCall(name, arguments), ToolSpec(name, "does it", {"type": "object", "properties": properties})
