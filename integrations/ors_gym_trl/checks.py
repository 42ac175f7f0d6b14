"""Checks that stop a run before it trains on something else than what its settings say."""

from __future__ import annotations

from collections.abc import Sequence

from trl import GRPOTrainer

from ors_gym_trl.generation import ModelSampler
from ors_gym_trl.tokens import TokenRecord

__all__ = ["SamplingMismatchError", "check_sampling", "check_trainer"]

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
    if getattr(trainer, "use_vllm", False):
        raise NotImplementedError(
            "use_vllm=True is not supported by ORSRollouts yet; set GRPOConfig(use_vllm=False) to sample in process"
        )


def check_sampling(sampler: ModelSampler, rows: Sequence[TokenRecord], num_rows: int = 4) -> None:
    """Compare log-probabilities as sampled with a plain forward pass over the final tokens of a few episodes.

    Raises:
        SamplingMismatchError: They differ by more than 0.1 nats on average.
    """
    for row in [row for row in rows if any(row.mask)][:num_rows]:
        recomputed = sampler.recompute(row.prompt_ids, row.completion_ids)
        differences = [
            abs(sampled - again)
            for sampled, again, mask in zip(row.logprobs, recomputed, row.mask, strict=True)
            if mask
        ]
        mean = sum(differences) / len(differences)
        if not mean <= MAX_MEAN_DIFFERENCE:
            raise SamplingMismatchError(
                f"sampled log-probabilities differ from the trained model's by {mean:.2f} nats on average (allowed: "
                f"{MAX_MEAN_DIFFERENCE}). The samples do not come from the weights being trained. Usual causes: "
                "dropout in the model, a generation setting that changes logits (repetition_penalty, min_p in a custom "
                "generation_config), or generating with gradient checkpointing on."
            )
