"""A language model small enough to learn tool calls on a CPU in minutes. It is created here; nothing is downloaded.

It is a real Qwen 3 with one layer and a real chat template. Only its vocabulary is special: one token per word, and one
per fixed part of a tool call's JSON, so that ``<tool_call>{"name": "press", …}</tool_call>`` takes six tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, cast

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

CALL, NO_ARGUMENTS, ARGUMENT, END = (
    '<tool_call>\n{"name": "',
    '", "arguments": {}}\n</tool_call>',
    '", "arguments": {"color": "',
    '"}}\n</tool_call>',
)
COLORS = ("red", "green", "blue")
WORDS = (
    *("system", "user", "assistant", "tool", "tools", "look", "press", "color", "find", "the", "button", "it", "is"),
    *("ok", "wrong", "error", "first", ".", ":", "|", "\n", " "),
    *COLORS,
)

CHAT_TEMPLATE = """\
{%- if tools %}{{- '<|im_start|>system\ntools :' }}{%- for tool in tools %}{{- ' ' + tool.function.name }}
{%- for name in tool.function.parameters.properties or {} %}{{- ' ' + name }}{%- endfor %}{{- ' .' }}{%- endfor %}
{{- '<|im_end|>\n' }}{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.role == 'assistant' %}{% generation %}{{- message.content or '' }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) }}
{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>' }}{% endgeneration %}
{%- else %}{{- message.content + '<|im_end|>' }}{%- endif %}{{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer with a chat template that lists tools and writes calls as Qwen and Hermes do."""
    vocabulary = {"<unk>": 0} | {word: i for i, word in enumerate(WORDS, start=1)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n| |[^ \n]+"), "isolated")
    words.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words,
        unk_token="<unk>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>"],
        padding_side="left",
        model_max_length=512,
    )
    tokenizer.add_tokens(
        [AddedToken(piece, normalized=False) for piece in (CALL, NO_ARGUMENTS, ARGUMENT, END)]  # pyright: ignore
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> Qwen3ForCausalLM:
    """An untrained Qwen 3: one layer, width 64, about 50,000 parameters."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        pad_token_id=cast("int", tokenizer.pad_token_id),
        eos_token_id=cast("int", tokenizer.eos_token_id),
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


def warm_up(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, tools: list[Any], *, seed: int
) -> Iterator[float]:
    """Teach the format of tool calls, but nothing about the task: every call is drawn at random.

    The tool, the color and the tool's answer are independent of each other, so only the format can be learned. Yields
    the progress, from 0 to 1.
    """
    draw = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    steps = 300
    pad = cast("int", tokenizer.pad_token_id)
    for step in range(steps):
        # A new conversation each time: with few of them, chance correlations would be learned.
        conversations = [_random_conversation(tokenizer, tools, draw) for _ in range(32)]
        width = max(len(ids) for ids, _ in conversations)
        ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in conversations])
        labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in conversations])
        loss = model(input_ids=ids, attention_mask=(ids != pad).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield (step + 1) / steps


def _random_conversation(
    tokenizer: PreTrainedTokenizerFast, tools: list[Any], draw: random.Random
) -> tuple[list[int], list[int]]:
    """Token ids of up to three random calls with random answers; labels only for the model's messages."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "find the button ."}]
    for _ in range(draw.randint(1, 3)):
        look = draw.random() < 0.5
        call = (
            {"name": "look", "arguments": {}}
            if look
            else {"name": "press", "arguments": {"color": draw.choice(COLORS)}}
        )
        answer = draw.choice([f"it is {draw.choice(COLORS)} .", "error : look first ."])
        messages += [
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]},
            {"role": "tool", "content": answer},
        ]
    encoded: Any = tokenizer.apply_chat_template(
        messages[:-1], tools=tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, spoken = list(encoded["input_ids"]), encoded["assistant_masks"]
    return ids, [token if mask else -100 for token, mask in zip(ids, spoken, strict=True)]
