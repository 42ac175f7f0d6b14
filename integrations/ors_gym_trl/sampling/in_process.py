"""Sampling from the trainer's own model, with the log-probability of each sampled token."""

from __future__ import annotations

import asyncio
import copy
import itertools
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, cast

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation

from ors_gym.client.portal import Portal
from ors_gym_trl.sampling.sampler import BatchSampler, BusyClock, SampledTurn, SamplingError, SamplingRequest
from ors_gym_trl.tokens.images import VisionProcessor, generation
from ors_gym_trl.tokens.record import ImageInputs

__all__ = ["ContinuousSampler", "PaddedSampler", "context_tokens", "model_for_generation", "stop_tokens"]


@contextmanager
def model_for_generation(trainer: GRPOTrainer) -> Iterator[Any]:
    """The model, unwrapped once for a whole rollout.

    Gradient checkpointing is off (with it generation silently samples garbage), and DeepSpeed's ZeRO-3 has gathered
    the weights: processes whose episodes differ in length need no common calls until the rollout is over.
    """
    args = cast("GRPOConfig", trainer.args)
    with (
        unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=args.ds3_gather_for_generation,
            generation_kwargs=getattr(trainer, "generation_kwargs", None),
            gradient_checkpointing_kwargs=cast("dict[str, Any] | None", args.gradient_checkpointing_kwargs),
        ) as model,
        torch.no_grad(),
    ):
        yield model


def stop_tokens(trainer: GRPOTrainer) -> frozenset[int]:
    """The tokens that end a turn."""
    config = getattr(trainer, "generation_config", None)
    stops: Any = trainer.eos_token_ids if config is None else config.eos_token_id
    return frozenset(stops if isinstance(stops, list) else [stops])


def context_tokens(trainer: GRPOTrainer) -> int:
    """How many tokens the model, and a colocated engine, has positions for."""
    config = cast("Any", trainer.accelerator.unwrap_model(trainer.model)).config.get_text_config()
    engine = cast("Any", trainer.args).vllm_max_model_length
    return min(getattr(config, "max_position_embeddings", None) or sys.maxsize, engine or sys.maxsize)


class _SampledLogprobs(LogitsProcessor):
    """Keeps the log-probability of each sampled token, one step's logits in memory at a time.

    They are taken at the sampling temperature but before top-k, top-p and penalties, as the trainer computes them, and
    before what must never be sampled is left out: a model's image tokens.
    """

    def __init__(self, temperature: float, never: Sequence[int] = ()) -> None:
        self._temperature = temperature
        self._never = list(never)
        self._last: torch.Tensor | None = None
        self._columns: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._take(input_ids)
        self._last = scores.float() / self._temperature
        if self._never:
            scores = scores.clone()
            scores[:, self._never] = -torch.inf
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


class PaddedSampler(BatchSampler):
    """Samples with the model's ``generate``, a padded batch of whatever is ready at a time."""

    def __init__(self, trainer: GRPOTrainer, vision: VisionProcessor | None = None) -> None:
        super().__init__()
        self._trainer = trainer
        self._vision = vision
        self._model: Any = None
        self._config: Any = trainer.generation_config
        self._stops = stop_tokens(trainer)
        self._pad_token_id: int = self._config.pad_token_id

    @contextmanager
    def open(self) -> Iterator[PaddedSampler]:
        """Hold the model ready for generation."""
        with model_for_generation(self._trainer) as self._model:
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
        config.suppress_tokens = None
        logprobs = _SampledLogprobs(self._config.temperature, self._config.suppress_tokens or ())
        with generation():
            sequences = self._model.generate(
                input_ids=ids,
                attention_mask=torch.tensor(mask, device=device),
                generation_config=config,
                logits_processor=LogitsProcessorList([logprobs]),
                **(self._vision.inputs(ids, pictures) if self._vision is not None else {}),
            )
        rows = zip(sequences[:, width:].tolist(), logprobs.finish(sequences).tolist(), asked, strict=True)
        return [SampledTurn.cut(sampled, lps, one.max_new_tokens, self._stops) for sampled, lps, one in rows]


CPU_CACHE_BLOCKS = 64
"""Of keys and values, 256 tokens each. TRL's default is half of the memory: on a CPU, half of the machine's."""

CPU_BATCH_TOKENS = 512
"""Of one forward pass. The manager fills an attention mask of so many rows, as wide as its cache, before it begins: at
its own sizes that is a gigabyte, and takes from seconds to a minute."""


class ContinuousSampler:
    """Samples with transformers' continuous batching: one future per turn, no padding, nobody waits for a batch.

    Chosen by ``GRPOConfig(use_transformers_continuous_batching=True)``. Starting and stopping it costs about half a
    second a rollout, so it pays where turns are long and differ in length. Its log-probabilities are those of the
    distribution that was sampled from, top-k and top-p included.
    """

    def __init__(self, trainer: GRPOTrainer) -> None:
        self._trainer = trainer
        self._stops = stop_tokens(trainer)
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
        settings: Any = copy.copy(trainer.continuous_batching_config)
        settings.return_logprobs = True
        if cast("Any", trainer.accelerator).device.type == "cpu":
            chosen: Any = cast("Any", trainer.args).transformers_continuous_batching_config or {}
            if not {"num_blocks", "max_memory_percent"} & set(chosen):
                settings.num_blocks = CPU_CACHE_BLOCKS
            settings.max_batch_tokens = settings.max_batch_tokens or CPU_BATCH_TOKENS
        config = trainer.generation_config
        training = cast("torch.nn.Module", trainer.model).training
        with Portal() as self._loop, model_for_generation(trainer) as model:
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
        self, prompt: Sequence[int], max_new_tokens: int, pictures: Sequence[ImageInputs] = ()
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
        """Wait: the manager samples in a thread of its own."""
        self._stopped.wait()

    def stop(self) -> None:
        """End :meth:`serve`."""
        self._stopped.set()
