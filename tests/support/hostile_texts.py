"""Texts that readers of model text take long for, or fail on: a piece, repeated to a size."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["OPENINGS", "PIECES", "hostile_texts"]

PIECES = [
    *(
        "x",
        " ",
        "\n",
        "é",
        "</s>",
        "<|im_end|>",
        "<|eot|>",
        "<",
        "{",
        "[",
        '"',
        "'",
        "\\",
        "9",
        "-",
        ",",
        "(",
        "=",
        ":",
    ),
    *("<think>", "</think>", "<think></think>", "[THINK]", "<|channel>", "<channel|>"),
    *(
        "<tool_call>",
        "</tool_call>",
        "<tool_call>{}",
        "<tool_call></tool_call>",
        '<tool_call>{"name": "f"}</tool_call>',
    ),
    *("<function=", "<function=f>", "<function=f></function>", "<function=f>{}", "<parameter=s>", "</parameter>"),
    *("<parameter=s>\nx\n</parameter>", "</parameter> ", "<arg_key>", "<arg_key>s</arg_key>", "<arg_value>"),
    *("<arg_key>s</arg_key><arg_value>x</arg_value>", "</arg_value> ", "<|tool_call>", "<|tool_call>call:", '<|"|>'),
    *("<|tool_call>call:f{}<tool_call|>", "{a:", "call:f{", "<|start|>", "<|channel|>", "<|message|>", "to=f "),
    *("<|channel|>analysis<|message|>x<|end|>", "<|start|>assistant<|channel|>final<|message|>", "<|call|>"),
    *(
        "<|tool_call_start|>",
        "<|tool_call_start|>[",
        "[f(",
        "f(s='",
        "', s='",
        "'), ",
        "',x",
        "s=[",
        "<|tool_call_end|>",
    ),
    *("<|python_tag|>", '{"name": ', '{"name": "f", "parameters": ', '{"name":"', "; ", "[TOOL_CALLS]", "f[ARGS]"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "```json\n", "\\ud800", "\\u00"),  # noqa: RUF001
    *(' to=f<|message|><atem:function_calls><atem:invoke name="f">', "</atem:parameter> ", "<|eom|>"),
    *(" to=self<|message|>x<|eom|><|start|>assistant", '<atem:parameter name="s">'),
]
HERMES = [
    "<tool_call>",
    '<tool_call>{"name": "f", "arguments": {"s": "',
    '<tool_call>{"name": "f", "arguments": {"n": ',
]
XML = ["<tool_call>\n<function=f>\n", "<tool_call>\n<function=f>\n<parameter=s>\n"]
DEEPSEEK = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>"  # noqa: RUF001
OPENINGS = {
    "hermes": HERMES,
    "smollm": HERMES,
    "xml": XML,
    "glm": ["<tool_call>f\n<arg_key>s</arg_key><arg_value>"],
    "gemma": ["<|tool_call>call:f{", '<|tool_call>call:f{s:<|"|>'],
    "harmony": ["<|channel|>commentary to=functions.f json<|message|>", "<|channel|>analysis<|message|>"],
    "llama": ['{"name": "f", "parameters": ', "[f("],
    "deepseek": [DEEPSEEK],
    "deepseek-v3.1": [DEEPSEEK],
    "lfm": ["<|tool_call_start|>[f(s=", "<|tool_call_start|>[f(s='"],
    "lfm-raw": ["<|tool_call_start|>[f(s=", "<|tool_call_start|>[f(s='"],
    "muse": [' to=f<|message|><atem:function_calls>\n<atem:invoke name="f">\n<atem:parameter name="s">'],
    "mistral": ["[TOOL_CALLS]f[ARGS]"],
    "openai": ['{"role": "assistant", "content": "'],
    "plain": ["<think>"],
}
"""How calls begin, by dialect."""


def hostile_texts(dialect: str, size: int) -> Iterator[tuple[str, str]]:
    """Names of texts for a dialect, and the texts, of about ``size`` characters."""
    for opening in ("", *OPENINGS[dialect]):
        for piece in PIECES:
            yield f"{opening}({piece})*x]", opening + piece * (size // len(piece)) + "x]"
