"""One episode's tokens: the prompt, then alternating spans, sampled by the model or added by the environment.

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
    """The images of one stretch of a conversation, which has these ids."""

    ids: tuple[int, ...]
    blocks: tuple[ImageBlock, ...]
    images: tuple[Image.Image, ...]
    tensors: Mapping[str, torch.Tensor]
    """The model's inputs for them: ``pixel_values``, and what else the model's processor computes of an image."""


@dataclass(frozen=True, slots=True)
class Span:
    """What the environment and the template put before a turn: token ids, and the images among them."""

    ids: list[int]
    pictures: ImageInputs | None = None


@dataclass(slots=True)
class TokenRecord:
    """One episode as the trainer sees it: three of the lists have one entry per completion token."""

    prompt_ids: list[int]
    completion_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    mask: list[int] = field(default_factory=list[int])
    pictures: dict[int, ImageInputs] = field(default_factory=dict[int, ImageInputs])
    """The images of each stretch that has any, by where among all ids it begins."""

    @classmethod
    def beginning(cls, prompt: Span) -> TokenRecord:
        """An episode of which there is the prompt."""
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
        """Everything so far: what the model is asked to continue."""
        return self.prompt_ids + self.completion_ids

    def add_sampled(self, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        """Append tokens that the model sampled, each with its log-probability (nats)."""
        if len(ids) != len(logprobs):
            raise ValueError(f"{len(ids)} sampled tokens came with {len(logprobs)} log-probabilities")
        self.completion_ids.extend(ids)
        self.logprobs.extend(logprobs)
        self.mask.extend([1] * len(ids))

    def add_environment(self, ids: Sequence[int], pictures: ImageInputs | None = None) -> None:
        """Append tokens that the environment and the template put between two turns, with the images among them."""
        if pictures is not None:
            self.pictures[len(self.ids)] = pictures
        self.completion_ids.extend(ids)
        self.logprobs.extend([0.0] * len(ids))
        self.mask.extend([0] * len(ids))

    def drop_trailing_environment(self) -> None:
        """Drop what follows the last sampled token: there is nothing to learn from it."""
        end = len(self.mask) - next((i for i, mask in enumerate(reversed(self.mask)) if mask), len(self.mask))
        del self.completion_ids[end:], self.logprobs[end:], self.mask[end:]
        length = len(self.prompt_ids) + len(self.completion_ids)
        self.pictures = {place: each for place, each in self.pictures.items() if place < length}
