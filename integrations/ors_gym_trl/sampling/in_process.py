"""Sampling from the trainer's own model, with the log-probability of each sampled token."""

from __future__ import annotations

import asyncio
import copy
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, SuppressTokensLogitsProcessor

from ors_gym.client.portal import Portal
from ors_gym_trl import compat
from ors_gym_trl.compat import Trainer
from ors_gym_trl.sampling.distribution import SHAPING, SeededDraw, shaping
from ors_gym_trl.sampling.sampler import BatchSampler, BusyClock, SampledTurn, SamplingError, SamplingRequest
from ors_gym_trl.tokens.images import VisionProcessor, generation
from ors_gym_trl.tokens.record import ImageInputs

__all__ = ["ContinuousSampler", "PaddedSampler"]


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


GREEDY = {"top_k": 50, "min_p": None}
"""Values next to the neutral ones: transformers treats neutral ones as sampling settings and warns."""


class PaddedSampler(BatchSampler):
    """Samples with the model's ``generate``, with a padded batch of the turns that are ready.

    Each turn has its own random numbers, so the samples do not depend on which turns were waiting.

    Args:
        hold: Holds the model while it samples.
        configured: The model's generation settings.
        stops: The tokens that end a turn.
        vision: The model's processor; None for a model of text.
    """

    def __init__(
        self,
        hold: Callable[[], AbstractContextManager[Any]],
        configured: Any,
        stops: frozenset[int],
        vision: VisionProcessor | None = None,
    ) -> None:
        super().__init__()
        self._hold = hold
        self._vision = vision
        self._model: Any = None
        self._stops = stops
        self._settings = {name: getattr(configured, name, None) for name in SHAPING}
        self._pad_token_id: int = configured.pad_token_id
        # All that shapes logits is left to our own processors, and so is the draw: generate takes the likeliest token.
        self._never: list[int] = configured.suppress_tokens or []
        self._config = copy.copy(configured)
        self._config.suppress_tokens = None
        self._config.do_sample = False
        for name, (neutral, _) in SHAPING.items():
            setattr(self._config, name, GREEDY.get(name, neutral))

    @classmethod
    def of_trainer(cls, trainer: Trainer, vision: VisionProcessor | None = None) -> PaddedSampler:
        """A sampler from the model of a trainer, with the trainer's settings."""

        def hold() -> AbstractContextManager[Any]:
            return compat.model_for_generation(trainer)

        return cls(hold, compat.generation_config(trainer), compat.stop_tokens(trainer), vision)

    @contextmanager
    def open(self) -> Iterator[PaddedSampler]:
        """Hold the model ready for generation."""
        with self._hold() as self._model:
            try:
                yield self
            finally:
                self._model = None

    def sample(self, asked: Sequence[SamplingRequest]) -> list[SampledTurn]:
        """Continue each prompt by at most its ``max_new_tokens`` tokens."""
        prompts = [list(one.prompt) for one in asked]
        width = max(map(len, prompts))
        device = self._model.device
        ids = torch.tensor([[self._pad_token_id] * (width - len(each)) + each for each in prompts], device=device)
        mask = [[0] * (width - len(each)) + [1] * len(each) for each in prompts]
        pictures = [each for one in asked for each in one.pictures]
        config = copy.copy(self._config)
        config.max_new_tokens = max(one.max_new_tokens for one in asked)
        logprobs = _SampledLogprobs(self._settings["temperature"] or 1.0)
        never = [SuppressTokensLogitsProcessor(self._never, device)] if self._never else []
        draw = SeededDraw([one.seed for one in asked], config.max_new_tokens, device)
        with generation():
            sequences = self._model.generate(
                input_ids=ids,
                attention_mask=torch.tensor(mask, device=device),
                generation_config=config,
                logits_processor=LogitsProcessorList([logprobs, *never, *shaping(self._settings), draw]),
                **(self._vision.inputs(ids, pictures) if self._vision is not None else {}),
            )
        rows = zip(sequences[:, width:].tolist(), logprobs.finish(sequences).tolist(), asked, strict=True)
        return [SampledTurn.cut(sampled, lps, one.max_new_tokens, self._stops) for sampled, lps, one in rows]


CPU_CACHE_BLOCKS = 64
"""Of keys and values, 256 tokens each. TRL's default is half of the memory: on a CPU, half of the machine's."""

CPU_BATCH_TOKENS = 512
"""Of one forward pass. The manager fills an attention mask of as many rows, wide as its cache, before it begins: at
its own sizes that is a gigabyte, and takes from seconds to a minute."""


class ContinuousSampler:
    """Samples with transformers' continuous batching: one future per turn, no padding, no waiting for a batch.

    Chosen by ``GRPOConfig(use_transformers_continuous_batching=True)``. Starting and stopping it costs about half a
    second a rollout, so it pays where turns are long and differ in length. Its log-probabilities are those of the
    distribution that was sampled from, top-k and top-p included. It takes no seeds.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._stops = compat.stop_tokens(trainer)
        self.settings = {name: getattr(compat.generation_config(trainer), name, None) for name in SHAPING}
        self._clock = BusyClock()
        self._numbers = itertools.count()
        self._stopped = threading.Event()
        self._manager: Any = None
        self._loop: Portal | None = None

    @property
    def seconds(self) -> float:
        """Wall time in which at least one turn was being sampled."""
        return self._clock.seconds

    @contextmanager
    def open(self) -> Iterator[ContinuousSampler]:
        """Start the manager's thread, and stop it."""
        trainer = self._trainer
        settings, chosen, on_cpu = compat.continuous_batching_settings(trainer)
        settings.return_logprobs = True
        if on_cpu:
            if not {"num_blocks", "max_memory_percent"} & chosen:
                settings.num_blocks = CPU_CACHE_BLOCKS
            settings.max_batch_tokens = settings.max_batch_tokens or CPU_BATCH_TOKENS
        config = compat.generation_config(trainer)
        training = compat.is_training(trainer)
        with Portal() as self._loop, compat.model_for_generation(trainer) as model:
            try:
                with model.continuous_batching_context_manager(
                    generation_config=config, continuous_batching_config=settings, warmup=False
                ) as self._manager:
                    yield self
            finally:
                self._manager = None
                # The manager leaves the model in eval mode, with which the trainer would log training as evaluation.
                model.train(training)

    def submit(
        self, prompt: Sequence[int], max_new_tokens: int, pictures: Sequence[ImageInputs] = (), seed: int | None = None
    ) -> Future[SampledTurn]:
        """Add a request; the manager's thread answers it. TRL refuses vision-language models here."""
        assert self._loop is not None
        assert not pictures
        return self._loop.submit(self._sample(list(prompt), max_new_tokens))

    async def _sample(self, prompt: list[int], max_new_tokens: int) -> SampledTurn:
        request_id = f"turn-{next(self._numbers)}"
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def receive(output: Any) -> None:
            if (output.is_finished() or output.error) and not answer.done():
                answer.set_result(output)

        self._clock.begin()
        try:
            self._manager.register_result_handler(request_id, receive)
            accepted = self._manager.add_request(prompt, request_id=request_id, max_new_tokens=max_new_tokens)
            if accepted is None:
                raise SamplingError("the continuous batching manager takes no more requests; its thread has ended")
            output = await answer
        except asyncio.CancelledError:
            self._manager.cancel_request(request_id)
            raise
        finally:
            self._clock.end()
        if output.error:
            raise SamplingError(f"continuous batching could not sample a turn: {output.error}")
        return SampledTurn.cut(output.generated_tokens, output.logprobs, max_new_tokens, self._stops)

    def serve(self) -> None:
        """Wait: the manager samples in its own thread."""
        self._stopped.wait()

    def stop(self) -> None:
        """End :meth:`serve`."""
        self._stopped.set()
