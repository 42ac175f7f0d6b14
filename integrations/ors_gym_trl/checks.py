"""Checks that stop a run before it trains on something else than what its settings say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from trl import GRPOConfig, GRPOTrainer

from ors_gym_trl.sampling.backends import check_backend
from ors_gym_trl.sampling.in_process import model_for_generation
from ors_gym_trl.tokens.record import TokenRecord

if TYPE_CHECKING:
    from ors_gym_trl.environment import Source

__all__ = ["SamplingMismatchError", "check_sampling", "check_trainer", "check_whole_groups"]

MAX_MEAN_DIFFERENCE = 0.1
"""Nats. Half-precision rounding stays near 0.01; sampling from other weights or a broken cache is above 1."""


class SamplingMismatchError(RuntimeError):
    """The sampled tokens do not come from the weights that are being trained."""


def check_trainer(trainer: GRPOTrainer) -> None:
    """Refuse a trainer that would not train on what the rollout returns."""
    if getattr(trainer.args, "max_completion_length", None) is None:
        raise ValueError("GRPOConfig(max_completion_length=…) is needed: it is what limits an episode's tokens")
    if getattr(trainer, "tools", None):
        raise ValueError(
            "GRPOTrainer was given tools or environment_factory beside rollout_func; it would run its own tool loop on "
            "top and train on the environment's tokens. Drop them: the tools come from the ORS server."
        )
    check_backend(trainer)


def check_whole_groups(source: Source, trainer: GRPOTrainer, num_prompts: int, num_generations: int) -> None:
    """Refuse groups that straddle processes where something needs them whole.

    Without such a thing they may: the trainer gathers the returns of all processes before it compares them.
    """
    reason = source.needs_whole_groups
    if reason is None or trainer.accelerator.num_processes == 1 or num_prompts % num_generations == 0:
        return
    training = cast("torch.nn.Module", trainer.model).training
    args = cast("GRPOConfig", trainer.args)
    if training:
        size = f"per_device_train_batch_size * steps_per_generation = {args.per_device_train_batch_size} * " + (
            f"{args.steps_per_generation}"
        )
        wanted = "num_generations"
    else:
        size = f"per_device_eval_batch_size = {args.per_device_eval_batch_size}"
        wanted = "num_generations_eval"
    raise ValueError(
        f"{reason} needs all {num_generations} episodes of a group in one process, but each process plays "
        f"{num_prompts} episodes ({size}), which is no multiple of {wanted} = {num_generations}. Make it one: "
        f"{-(-num_prompts // num_generations) * num_generations} episodes a process, or a {wanted} that divides "
        f"{num_prompts}"
    )


def check_sampling(trainer: GRPOTrainer, rows: Sequence[TokenRecord], num_rows: int = 4) -> None:
    """Compare log-probabilities as sampled with a plain forward pass over the final tokens of a few episodes.

    Every process makes ``num_rows`` forward passes, whatever it has to compare, so that sharded models stay in step.
    Each is of one row, and only its sampled tokens' logits become float32: a vocabulary times an episode is gigabytes.

    Raises:
        SamplingMismatchError: They differ by more than 0.1 nats on average.
    """
    shown = [row for row in rows if any(row.mask)][:num_rows] or list(rows[:1])
    differences: list[float] = []
    with model_for_generation(trainer) as model:
        for row in itertools.islice(itertools.cycle(shown), num_rows):
            sampled = [logprob for logprob, mask in zip(row.logprobs, row.mask, strict=True) if mask]
            again = _recompute(model, row, cast("GRPOConfig", trainer.args).temperature)
            differences += [abs(a - b) for a, b in zip(sampled, again, strict=True) if not math.isnan(a)]
    mean = sum(differences) / max(len(differences), 1)
    if not mean <= MAX_MEAN_DIFFERENCE:
        where = (
            "Usual causes: weights that never reached the vLLM server, a server of another model, one that runs "
            "without --logprobs-mode processed_logprobs at a temperature other than 1, or generation_kwargs that "
            "change logits"
            if trainer.use_vllm
            else "Usual causes: dropout in the model, a generation setting that changes logits (repetition_penalty, "
            "min_p in a custom generation_config), or generating with gradient checkpointing on"
        )
        raise SamplingMismatchError(
            f"sampled log-probabilities differ from the trained model's by {mean:.2f} nats on average (allowed: "
            f"{MAX_MEAN_DIFFERENCE}). The samples do not come from the weights being trained. {where}."
        )


def _recompute(model: Any, row: TokenRecord, temperature: float) -> list[float]:
    """The log-probability of each sampled token by a plain forward pass, as the trainer will compute it."""
    ids = torch.tensor([row.ids], device=model.device)
    logits: Any = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    places = [place for place, mask in enumerate(row.mask, start=len(row.prompt_ids)) if mask]
    scaled = logits[0, [place - 1 for place in places]].float() / temperature  # a place's logits are the next token's
    chosen = scaled.gather(1, ids[0, places, None]).squeeze(1) - scaled.logsumexp(dim=1)
    return [float(value) for value in chosen]
