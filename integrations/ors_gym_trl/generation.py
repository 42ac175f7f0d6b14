"""Sampling from the trainer's own model, with the log-probability of each sampled token."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation

__all__ = ["ModelSampler", "Sampled"]


@dataclass(frozen=True, slots=True)
class Sampled:
    """One sampled continuation: ``ids`` up to and with the end-of-sequence token, ``logprobs`` in nats, as long."""

    ids: list[int]
    logprobs: list[float]
    ended: bool
    """Whether the model ended it, rather than the token limit."""


class _SampledLogprobs(LogitsProcessor):
    """Keeps the log-probability of each sampled token, one step's logits in memory at a time.

    They are taken at the sampling temperature but before top-k, top-p and penalties, as the trainer computes them.
    """

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._last: torch.Tensor | None = None
        self._columns: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._take(input_ids)
        self._last = scores.float() / self._temperature
        return scores

    def _take(self, input_ids: torch.Tensor) -> None:
        if self._last is not None:
            chosen = self._last.gather(1, input_ids[:, -1:]).squeeze(1)
            self._columns.append(chosen - self._last.logsumexp(dim=1))
            self._last = None

    def finish(self, sequences: torch.Tensor) -> torch.Tensor:
        """The log-probabilities of all sampled tokens, shape (batch, sampled)."""
        self._take(sequences)
        return torch.stack(self._columns, dim=1)


class ModelSampler:
    """Samples from the model that the trainer is training, a padded batch at a time.

    Use :meth:`open` around a rollout: it unwraps the model once (turning gradient checkpointing off, with which
    generation silently samples garbage), so that processes whose episodes differ in length need no common calls.
    """

    def __init__(self, trainer: GRPOTrainer) -> None:
        self._trainer = trainer
        self._args = cast("GRPOConfig", trainer.args)
        self._model: Any = None
        self._config: Any = trainer.generation_config
        stops = self._config.eos_token_id
        self._stops: set[int] = set(stops if isinstance(stops, list) else [stops])
        self._pad_token_id: int = self._config.pad_token_id
        self.seconds = 0.0
        """Wall time spent sampling so far."""

    @contextmanager
    def open(self) -> Iterator[ModelSampler]:
        """Hold the model ready for generation."""
        trainer = self._trainer
        with (
            unwrap_model_for_generation(
                trainer.model_wrapped,
                trainer.accelerator,
                gather_deepspeed3_params=self._args.ds3_gather_for_generation,
                generation_kwargs=trainer.generation_kwargs,
                gradient_checkpointing_kwargs=cast("dict[str, Any] | None", self._args.gradient_checkpointing_kwargs),
            ) as self._model,
            torch.no_grad(),
        ):
            try:
                yield self
            finally:
                self._model = None

    def sample(self, prompts: Sequence[Sequence[int]], max_new_tokens: Sequence[int]) -> list[Sampled]:
        """Continue each prompt by at most its ``max_new_tokens`` tokens."""
        started = time.monotonic()
        width = max(map(len, prompts))
        device = self._model.device
        padded = [[self._pad_token_id] * (width - len(ids)) + list(ids) for ids in prompts]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
        logprobs = _SampledLogprobs(self._config.temperature)
        config = copy.copy(self._config)
        config.max_new_tokens = max(max_new_tokens)
        sequences = self._model.generate(
            input_ids=torch.tensor(padded, device=device),
            attention_mask=torch.tensor(mask, device=device),
            generation_config=config,
            logits_processor=LogitsProcessorList([logprobs]),
        )
        sampled = sequences[:, width:].tolist()
        rows = zip(sampled, logprobs.finish(sequences).tolist(), max_new_tokens, strict=True)
        self.seconds += time.monotonic() - started
        return [self._cut(ids[:limit], lps[:limit]) for ids, lps, limit in rows]

    def recompute(self, prompt_ids: list[int], completion_ids: list[int]) -> list[float]:
        """The log-probability of each completion token by one plain forward pass, as the trainer will compute it."""
        ids = torch.tensor([prompt_ids + completion_ids], device=self._model.device)
        logits = self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, len(prompt_ids) - 1 : -1]
        scaled = logits.float() / self._config.temperature
        chosen = scaled.gather(1, ids[0, len(prompt_ids) :, None]).squeeze(1)
        return list((chosen - scaled.logsumexp(dim=1)).tolist())

    def _cut(self, ids: list[int], logprobs: list[float]) -> Sampled:
        end = next((i + 1 for i, token in enumerate(ids) if token in self._stops), None)
        return Sampled(ids[:end], logprobs[:end], ended=end is not None)
