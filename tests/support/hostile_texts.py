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
    *("</parameter>\n", "<parameter name=", "</invoke>", "functions.f:0", ":9", "<|tool_call_end|><|tool_call_begin|>"),
    *("</arg_value:opensource>\n", "</tool_call:opensource>", "<tool_calls>{}", "<|START_ACTION|>", "<|END_RESPONSE|>"),
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
DSML = '<｜DSML｜tool_calls><｜DSML｜invoke name="f">'  # noqa: RUF001
HUNYUAN = "<tool_calls:opensource><tool_call:opensource>f<tool_sep:opensource>"
KIMI = "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"
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
    "kimi": ["<|tool_calls_section_begin|><|tool_call_begin|>", KIMI, f'{KIMI}{{"s": "'],
    "minimax": ['<minimax:tool_call><invoke name="f">', '<minimax:tool_call><invoke name="f"><parameter name="s">'],
    "minimax-m1": ["<tool_calls>", '<tool_calls>{"name": "f", "arguments": {"s": "'],
    "deepseek-v3.2": [DSML.replace("tool_calls", "function_calls")],
    "deepseek-v4": [DSML, f'{DSML}<｜DSML｜parameter name="s" string="false">'],  # noqa: RUF001
    "hunyuan": ["<tool_calls>", '<tool_calls>[{"name": "f", "arguments": {"s": "'],
    "hunyuan-3": [HUNYUAN, f"{HUNYUAN}<arg_key:opensource>s</arg_key:opensource><arg_value:opensource>"],
    "command": ["<|START_ACTION|>[", '<|START_ACTION|>[{"tool_name": "f", "parameters": {"s": "', "<|START_RESPONSE|>"],
    "openai": ['{"role": "assistant", "content": "'],
    "plain": ["<think>"],
}
"""How calls begin, by dialect."""


def hostile_texts(dialect: str, size: int) -> Iterator[tuple[str, str]]:
    """Names of texts for a dialect, and the texts, of about ``size`` characters."""
    for opening in ("", *OPENINGS[dialect]):
        for piece in PIECES:
            yield f"{opening}({piece})*x]", opening + piece * (size // len(piece)) + "x]"
