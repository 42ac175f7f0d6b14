"""Vision-language models of a few thousand parameters with their processors, and an environment that shows colors."""

from __future__ import annotations

import base64
import io
from typing import Any

import torch
from PIL import Image
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from ors_gym.types import ImageBlock, TextBlock, ToolOutput
from ors_gym_server import Environment, tool
from tests.support.chat_templates import byte_tokenizer

__all__ = ["COLORS", "Colors", "make_gemma", "make_qwen"]

COLORS = ("red", "green", "blue")

TEMPLATE = """\
{%- macro show(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}
{%- if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}{% endmacro -%}
{%- if tools %}<|im_start|>system
{{ tools | tojson }}<|im_end|>
{% endif %}
{%- for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}
{{ show(m.content) }}
{%- for c in m.tool_calls or [] %}<tool_call>
{{ c.function | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def png(color: str, size: tuple[int, int] = (16, 16)) -> str:
    """A picture of one color, as base64."""
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


class Colors(Environment):
    """Shows a color, and another one when asked; both tasks read the same and look different."""

    @classmethod
    def list_splits(cls) -> list[str]:
        return ["train"]

    @classmethod
    def list_tasks(cls, split: str) -> list[dict[str, Any]]:
        return [{"id": color, "color": color} for color in COLORS]

    def get_prompt(self) -> list[Any]:
        return [TextBlock("which?"), ImageBlock(png(self.task_spec["color"]), "image/png")]

    @tool
    def look(self) -> ToolOutput:
        """Show another picture, wider than the first."""
        return ToolOutput((TextBlock("see"), ImageBlock(png("white", (24, 16)), "image/png")), reward=0.5)


def _tokenizer(pieces: dict[str, str]) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer(None)
    tokenizer.add_special_tokens({"additional_special_tokens": list(pieces.values())})
    for name, piece in pieces.items():
        setattr(tokenizer, name, piece)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(piece))
    return tokenizer


class ImageQwenProcessor(Qwen2_5_VLProcessor):
    """Without the part for videos, which needs torchvision."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str) -> None:
        self.image_token, self.image_token_id = tokenizer.image_token, tokenizer.image_token_id
        self.video_token, self.video_token_id = "<|video_pad|>", None
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}


def make_qwen(seed: int = 0) -> tuple[Any, ProcessorMixin]:
    """A Qwen 2.5-VL: images of many sizes, in patches, with positions of their own."""
    tokenizer = _tokenizer({"image_token": "<|image_pad|>", "vision_start": "<|vision_start|>"})
    size = {"shortest_edge": 64, "longest_edge": 4096}
    images = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2, size=size)
    template = TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|>")
    processor = ImageQwenProcessor(images, tokenizer, template)
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 4, "window_size": 16,
        "out_hidden_size": 32, "fullatt_block_indexes": [0],
    }  # fmt: skip
    special = {"image_token_id": tokenizer.image_token_id, "vision_start_token_id": tokenizer.vision_start_id}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope}
    text |= {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **special)
    torch.manual_seed(seed)
    return Qwen2_5_VLForConditionalGeneration(config), processor


def make_gemma(seed: int = 0) -> tuple[Any, ProcessorMixin]:
    """A Gemma 3: every image of one size, its tokens seeing each other in both directions."""
    pieces = {"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
    tokenizer = _tokenizer(pieces)
    images = Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    processor = Gemma3Processor(images, tokenizer, TEMPLATE.replace("IMAGE", "<boi>"), image_seq_length=4)
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 16, "patch_size": 4,
    }  # fmt: skip
    text = TEXT | {"vocab_size": len(tokenizer), "head_dim": 8, "bos_token_id": None}
    text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    special = {f"{name.removesuffix('_token')}_token_id": getattr(tokenizer, f"{name}_id") for name in pieces}
    special |= {"boi_token_index": tokenizer.boi_token_id, "eoi_token_index": tokenizer.eoi_token_id}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **special)
    torch.manual_seed(seed)
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.1)  # zero as it comes
    return model, processor
