"""Which sampler the trainer's configuration asks for."""

from __future__ import annotations

from ors_gym_trl import compat
from ors_gym_trl.compat import Trainer
from ors_gym_trl.sampling.in_process import ContinuousSampler, PaddedSampler
from ors_gym_trl.sampling.sampler import Sampler
from ors_gym_trl.sampling.vllm import ColocatedSampler, ServerSampler
from ors_gym_trl.tokens.images import VisionProcessor

__all__ = ["make_sampler"]


def make_sampler(trainer: Trainer, vision: VisionProcessor | None = None) -> Sampler:
    """The sampler of one rollout.

    ============================================  =====================================
    ``GRPOConfig``                                sampled by
    ============================================  =====================================
    nothing                                       the model's ``generate``, padded
    ``use_transformers_continuous_batching=True``  transformers' continuous batching
    ``use_vllm=True, vllm_mode="server"``         a vLLM server, one request a turn
    ``use_vllm=True, vllm_mode="colocate"``       the engine in the trainer's process
    ============================================  =====================================
    """
    match compat.backend(trainer):
        case "server":
            return ServerSampler.of_trainer(trainer, vision)
        case "colocate":
            return ColocatedSampler(trainer)
        case "continuous":
            return ContinuousSampler(trainer)
        case "padded":
            return PaddedSampler.of_trainer(trainer, vision)
