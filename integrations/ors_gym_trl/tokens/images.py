"""Images in conversations: from ORS image blocks to the inputs of a vision-language model.

A processor writes an image as a run of image tokens and computes the model's inputs for them (pixels and their layout).
The tokens are part of an episode's tokens; the inputs are kept beside them. TRL 1.16 does not pass on images from a
rollout function, so :class:`ImageFeed` adds them in a forward hook.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import torch
from PIL import Image, UnidentifiedImageError

from ors_gym.types import ImageBlock
from ors_gym_trl import compat
from ors_gym_trl.compat import Trainer
from ors_gym_trl.tokens.record import ImageInputs, TokenRecord

__all__ = ["ImageFeed", "ImagesNotSupportedError", "VisionProcessor", "generation", "read_image"]


class ImagesNotSupportedError(NotImplementedError):
    """An environment showed an image to a model or sampler that takes none."""


def read_image(block: ImageBlock) -> Image.Image:
    """The block's image, in RGB.

    Raises:
        ValueError: Pillow cannot read it.
    """
    try:
        return Image.open(io.BytesIO(base64.b64decode(block.data, validate=True))).convert("RGB")
    except (binascii.Error, UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ValueError(f"an image block of type {block.mime_type!r} cannot be read: {error}") from error


class VisionProcessor:
    """A vision-language model's processor, applied to a part of a conversation at a time.

    Args:
        processor: A transformers processor that says its ``image_token_ids`` (Qwen-VL and Gemma 3 are tested).
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self._typed_token_ids = [int(token) for token in self.processor.image_token_ids]
        token = int(self.processor.image_token_id)
        # Gemma 3's image_token_id is the placeholder in its prompts, not the token in the ids.
        self.image_token_id = token if token in self._typed_token_ids else self._typed_token_ids[0]
        self._type_ids: set[str] = set()
        """The model's inputs that mark image tokens, found in the processor's output."""
        self._encoded: WeakValueDictionary[tuple[str, tuple[ImageBlock, ...]], ImageInputs] = WeakValueDictionary()

    def encode(self, text: str, blocks: Sequence[ImageBlock]) -> ImageInputs:
        """The images in ``text`` and its ids, with each placeholder expanded to its image's tokens.

        Images that all episodes of a group share are computed and kept once.
        """
        known = (text, tuple(blocks))
        pictures = self._encoded.get(known)
        if pictures is None:
            pictures = self._encoded[known] = self._encode(text, known[1])
        return pictures

    def _encode(self, text: str, blocks: tuple[ImageBlock, ...]) -> ImageInputs:
        images = tuple(map(read_image, blocks))
        encoded = self.processor(text=[text], images=[list(images)], add_special_tokens=False, return_tensors="pt")
        ids = encoded.pop("input_ids")
        encoded.pop("attention_mask", None)
        tensors: dict[str, torch.Tensor] = {}
        for name, value in encoded.items():
            if value.shape == ids.shape:
                self._type_ids.add(name)
            else:
                tensors[name] = value
        return ImageInputs(tuple(ids[0].tolist()), blocks, images, tensors)

    def inputs(self, ids: torch.Tensor, pictures: Iterable[ImageInputs]) -> dict[str, torch.Tensor]:
        """The model's inputs in addition to ``ids`` of shape (batch, length): their images, row by row."""
        tensors = [each.tensors for each in pictures]
        if not tensors:
            return {}
        try:
            joined = {name: torch.cat([each[name] for each in tensors]).to(ids.device) for name in tensors[0]}
        except (RuntimeError, KeyError) as error:
            raise ImagesNotSupportedError(
                f"the images of several turns cannot be joined as {type(self.processor).__name__} computes them "
                f"({error}); models whose images have one size, or as many patches as they need, can be trained"
            ) from error
        types = torch.isin(ids, torch.tensor(self._typed_token_ids, device=ids.device)).long()
        return joined | dict.fromkeys(self._type_ids, types)


_generating: ContextVar[bool] = ContextVar("_generating", default=False)

_GENERATE_GIVES = ("pixel_values", "mm_encoder_outputs", "past_key_values", "cache")
"""Arguments by which ``generate`` of different transformers versions passes images or their features."""


@contextmanager
def generation() -> Iterator[None]:
    """Context in which the caller gives the model its images, instead of an :class:`ImageFeed`."""
    token = _generating.set(True)
    try:
        yield
    finally:
        _generating.reset(token)


_Rows: TypeAlias = dict[tuple[int, ...], Mapping[int, ImageInputs]]
"""The images of each span by its start, keyed by a row's tokens."""


class ImageFeed:
    """Gives a model the images of the rows in its forward pass.

    The trainer shuffles and splits the rows of a batch, so a row is identified by its tokens.

    Args:
        vision: The trained model's processor.
        trainer: Its model and reference model get the images.
    """

    def __init__(self, vision: VisionProcessor, trainer: Trainer) -> None:
        self._vision = vision
        self._pad_token_id: int = compat.pad_token_id(trainer)
        self._latest: _Rows = {}
        self._trained: _Rows = {}
        """Not the latest where one is evaluated before a batch of training is used up."""
        self._hooks = [
            model.register_forward_pre_hook(self._add, with_kwargs=True) for model in compat.trained_models(trainer)
        ]

    def close(self) -> None:
        """Stop, before another trainer's batches."""
        for hook in self._hooks:
            hook.remove()

    def hold(self, records: Iterable[TokenRecord], *, training: bool) -> None:
        """Keep the images of a batch until the next batch of the same kind.

        Records with the same tokens and different images are told apart by a masked token at the end, which does not
        affect training.
        """
        rows: _Rows = {}
        self._latest = rows
        if training:
            self._trained = rows
        for record in records:
            pictures = record.pictures
            while pictures and not _same(rows.setdefault(tuple(record.ids), pictures), pictures):
                record.add_environment(record.ids[-1:])

    def _add(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        ids = kwargs.get("input_ids")
        given = _generating.get() or any(kwargs.get(name) is not None for name in _GENERATE_GIVES)
        if ids is None or given or not bool((ids == self._vision.image_token_id).any()):
            return None
        rows = self._trained if module.training else self._latest
        mask = kwargs.get("attention_mask")
        seen = torch.ones_like(ids).bool() if mask is None else mask.bool()
        pictures: list[ImageInputs] = []
        for row, seen_places in zip(ids, seen, strict=True):
            # Completions that are masked as truncated are there, and not seen, and neither are their images.
            first, last = ((row != self._pad_token_id) | seen_places).nonzero()[[0, -1], 0].tolist()
            end = first + int(seen_places.sum())
            key = tuple(row[first : last + 1].tolist())
            if key not in rows and self._vision.image_token_id in key:
                raise RuntimeError("the model is run on a row with image tokens that is of no episode of the batch")
            pictures += [each for place, each in rows.get(key, {}).items() if first + place < end]
        ids = ids.masked_fill(~seen & (ids == self._vision.image_token_id), self._pad_token_id)
        return args, kwargs | {"input_ids": ids} | self._vision.inputs(ids, pictures)


def _same(one: Mapping[int, ImageInputs], other: Mapping[int, ImageInputs]) -> bool:
    return [each.blocks for each in one.values()] == [each.blocks for each in other.values()]
