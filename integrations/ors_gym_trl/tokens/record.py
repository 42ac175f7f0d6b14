"""One episode's tokens: the prompt, then spans that alternate between the model and the environment.

Sampled tokens have mask 1 and their log-probabilities, those of the environment mask 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image

from ors_gym.types import ImageBlock

__all__ = ["ImageInputs", "Span", "TokenRecord"]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ImageInputs:
    """The images of one part of a conversation, which has these ids."""

    ids: tuple[int, ...]
    blocks: tuple[ImageBlock, ...]
    images: tuple[Image.Image, ...]
    tensors: Mapping[str, torch.Tensor]
    """The model's inputs for them: ``pixel_values`` and other outputs of the processor."""


@dataclass(frozen=True, slots=True)
class Span:
    """The tokens of environment and template before a turn, and their images."""

    ids: list[int]
    pictures: ImageInputs | None = None


@dataclass(slots=True)
class TokenRecord:
    """One episode for the trainer: three of the lists have one entry per completion token."""

    prompt_ids: list[int]
    completion_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    mask: list[int] = field(default_factory=list[int])
    pictures: dict[int, ImageInputs] = field(default_factory=dict[int, ImageInputs])
    """The images of each span with images, by the span's start among all ids."""

    @classmethod
    def beginning(cls, prompt: Span) -> TokenRecord:
        """Start the record of an episode with its prompt."""
        record = cls(prompt.ids)
        if prompt.pictures is not None:
            record.pictures[0] = prompt.pictures
        return record

    @property
    def prompt(self) -> Span:
        """The prompt, with its images."""
        return Span(self.prompt_ids, self.pictures.get(0))

    @property
    def ids(self) -> list[int]:
        """All tokens so far, which the model continues."""
        return self.prompt_ids + self.completion_ids

    def add_sampled(self, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        """Append sampled tokens, each with its log-probability (nats)."""
        if len(ids) != len(logprobs):
            raise ValueError(f"{len(ids)} sampled tokens came with {len(logprobs)} log-probabilities")
        self.completion_ids.extend(ids)
        self.logprobs.extend(logprobs)
        self.mask.extend([1] * len(ids))

    def add_environment(self, ids: Sequence[int], pictures: ImageInputs | None = None) -> None:
        """Append the tokens of environment and template between two turns, and their images."""
        if pictures is not None:
            self.pictures[len(self.ids)] = pictures
        self.completion_ids.extend(ids)
        self.logprobs.extend([0.0] * len(ids))
        self.mask.extend([0] * len(ids))

    def drop_trailing_environment(self) -> None:
        """Drop the tokens after the last sampled one, which have no effect on training."""
        end = len(self.mask) - next((i for i, mask in enumerate(reversed(self.mask)) if mask), len(self.mask))
        del self.completion_ids[end:], self.logprobs[end:], self.mask[end:]
        length = len(self.prompt_ids) + len(self.completion_ids)
        self.pictures = {place: each for place, each in self.pictures.items() if place < length}

    def left_out(self, token: int) -> TokenRecord:
        """The prompt and one masked token, for an episode that must have no effect on training."""
        record = TokenRecord.beginning(self.prompt)
        record.add_environment([token])
        return record
