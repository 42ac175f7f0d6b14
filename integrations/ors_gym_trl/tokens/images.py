"""Images in conversations: from ORS image blocks to what a vision-language model is given.

A processor writes an image as a run of image tokens, and computes what the model puts in their place (pixels, and how
they lie). The tokens are part of an episode's tokens like all others; the rest travels beside them. TRL hands on no
images from a rollout function (1.16), so :class:`ImageFeed` gives them to the model where it is run.
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
    """An environment showed an image to a model, or through a way of sampling, that takes none."""


def read_image(block: ImageBlock) -> Image.Image:
    """The block's image, in RGB.

    Raises:
        ValueError: It is no image that Pillow reads.
    """
    try:
        return Image.open(io.BytesIO(base64.b64decode(block.data, validate=True))).convert("RGB")
    except (binascii.Error, UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ValueError(f"an image block of type {block.mime_type!r} cannot be read: {error}") from error


class VisionProcessor:
    """A vision-language model's processor, asked for a stretch of a conversation at a time.

    Args:
        processor: A transformers processor that says its ``image_token_ids`` (Qwen-VL and Gemma 3 are tested).
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self._typed_token_ids = [int(token) for token in self.processor.image_token_ids]
        token = int(self.processor.image_token_id)
        # Gemma 3's image_token_id is what its prompts say for an image, and not what stands in the ids for one.
        self.image_token_id = token if token in self._typed_token_ids else self._typed_token_ids[0]
        self._type_ids: set[str] = set()
        """The model's inputs that tell image tokens from text, learned from what the processor gives."""
        self._encoded: WeakValueDictionary[tuple[str, tuple[ImageBlock, ...]], ImageInputs] = WeakValueDictionary()

    def encode(self, text: str, blocks: Sequence[ImageBlock]) -> ImageInputs:
        """The images in ``text``, and its ids: each placeholder in it has grown to its image's tokens.

        What a group's episodes are all shown is computed once, and is in memory once.
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
        """What the model takes beside ``ids``, of shape (batch, length): the images in them, row after row."""
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
"""What a model's ``generate`` calls it with, by the names of different transformers: images it has, or has seen."""


@contextmanager
def generation() -> Iterator[None]:
    """Within it the model is given its images by who generates, and not by an :class:`ImageFeed`."""
    token = _generating.set(True)
    try:
        yield
    finally:
        _generating.reset(token)


_Rows: TypeAlias = dict[tuple[int, ...], Mapping[int, ImageInputs]]
"""By all of a row's tokens: the images of each stretch, by where it begins."""


class ImageFeed:
    """Gives a model the images of the rows it is run on.

    The trainer shuffles and splits the rows of a batch, so a row is known by its tokens.

    Args:
        vision: The trained model's processor.
        trainer: Its model and its reference model are fed.
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
        """Feed nothing any more: another trainer's batches come next."""
        for hook in self._hooks:
            hook.remove()

    def hold(self, records: Iterable[TokenRecord], *, training: bool) -> None:
        """Hold the images of a batch until the next of its kind.

        Records of the same tokens with different images are made different: by a masked token at the end, which
        nothing is learned from.
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
