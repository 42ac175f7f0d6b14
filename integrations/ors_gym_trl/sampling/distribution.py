"""The sampling distribution, computed from a model's logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

__all__ = ["SHAPING", "SeededDraw", "shapes", "shaping"]

SHAPING: Mapping[str, tuple[float, Callable[[Any], LogitsProcessor]]] = {
    "repetition_penalty": (1.0, RepetitionPenaltyLogitsProcessor),
    "temperature": (1.0, TemperatureLogitsWarper),
    "top_k": (0, TopKLogitsWarper),
    "top_p": (1.0, TopPLogitsWarper),
    "min_p": (0.0, MinPLogitsWarper),
    "typical_p": (1.0, TypicalLogitsWarper),
    "epsilon_cutoff": (0.0, EpsilonLogitsWarper),
    "eta_cutoff": (0.0, EtaLogitsWarper),
}
"""By the setting's name: the value that changes nothing, and what another does; in the order of transformers."""


def shaping(settings: Mapping[str, Any]) -> LogitsProcessorList:
    """The effect of these settings on logits."""
    made: list[LogitsProcessor] = []
    for name, (neutral, kind) in SHAPING.items():
        value = settings.get(name)
        if value is not None and value != neutral and not (name == "top_k" and value < 0):
            made.append(kind(int(value) if name == "top_k" else float(value)))
    return LogitsProcessorList(made)


def shapes(settings: Mapping[str, Any]) -> bool:
    """Whether these settings do more than divide by the temperature."""
    return len(shaping({**settings, "temperature": None})) > 0


class SeededDraw(LogitsProcessor):
    """Draws each row's next token with the row's own random numbers, and leaves no other to choose.

    A batch consists of the turns that are waiting, so random numbers of the batch would differ between runs.

    Args:
        seeds: One a row.
        length: Tokens that may be drawn.
        device: Where the logits are.
    """

    def __init__(self, seeds: list[int], length: int, device: torch.device) -> None:
        drawn = np.stack([np.random.default_rng(seed).random(length) for seed in seeds], axis=1)
        # Float64, so that the cumulated probabilities of a large vocabulary do not round; MPS has none.
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._drawn = torch.tensor(drawn, dtype=self._dtype, device=device)
        self._step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Make the drawn token the likeliest."""
        cumulated = scores.softmax(dim=-1, dtype=torch.float32).to(self._dtype).cumsum(dim=-1)
        drawn = (self._drawn[self._step] * cumulated[:, -1]).unsqueeze(1)
        self._step += 1
        tokens = torch.searchsorted(cumulated, drawn, right=True).clamp(max=scores.shape[-1] - 1)
        return scores.scatter(1, tokens, torch.inf)
