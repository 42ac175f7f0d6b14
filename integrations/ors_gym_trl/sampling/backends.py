"""Which sampler the trainer's configuration asks for, and which configurations would go wrong."""

from __future__ import annotations

import logging
import os
from typing import Any, cast
from urllib.parse import urlsplit

from accelerate import DistributedType  # type: ignore[import-untyped]
from trl import GRPOConfig, GRPOTrainer

from ors_gym_trl.sampling.in_process import ContinuousSampler, PaddedSampler
from ors_gym_trl.sampling.sampler import Sampler
from ors_gym_trl.sampling.vllm import ColocatedSampler, ServerSampler, server_url
from ors_gym_trl.tokens.images import VisionProcessor

__all__ = ["check_backend", "make_sampler"]

log = logging.getLogger(__name__)


def make_sampler(trainer: GRPOTrainer, vision: VisionProcessor | None = None) -> Sampler:
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
    if trainer.use_vllm:
        return ServerSampler.of_trainer(trainer, vision) if trainer.vllm_mode == "server" else ColocatedSampler(trainer)
    if trainer.use_transformers_continuous_batching:
        return ContinuousSampler(trainer)
    return PaddedSampler(trainer, vision)


def check_backend(trainer: GRPOTrainer) -> None:
    """Refuse configurations in which processes would wait for each other for ever, or ask the wrong server."""
    args = cast("GRPOConfig", trainer.args)
    several = trainer.accelerator.num_processes > 1
    if trainer.use_vllm:
        if args.vllm_importance_sampling_correction and args.vllm_importance_sampling_mode.startswith("sequence"):
            log.warning(
                "vllm_importance_sampling_mode=%r multiplies the small differences between vLLM and the trained model "
                "over all turns of an episode, so long episodes count for nothing; 'token_truncate' does not",
                args.vllm_importance_sampling_mode,
            )
        if trainer.vllm_mode == "colocate" and args.vllm_tensor_parallel_size > 1:
            raise ValueError(
                f"vllm_tensor_parallel_size={args.vllm_tensor_parallel_size} in colocate mode makes processes generate "
                "in lockstep, and episodes have no common turns. Set vllm_tensor_parallel_size=1, or run the model in "
                'parallel on a server: vllm_mode="server"'
            )
        if trainer.vllm_mode == "server" and several and _on_several_machines(trainer):
            host = urlsplit(server_url(args)).hostname
            if host in ("0.0.0.0", "127.0.0.1", "localhost", "::1", None):
                raise ValueError(
                    f"the vLLM server's address {server_url(args)} means another machine on each node; "
                    "set vllm_server_base_url to an address that every node reaches"
                )
        return
    if not several:
        return
    kind = trainer.accelerator.distributed_type
    if kind == DistributedType.FSDP:
        raise ValueError(
            "with FSDP every step of generation in process is a collective call, and episodes differ in length: "
            'processes would wait for each other for ever. Use vLLM: use_vllm=True, vllm_mode="server" or "colocate"'
        )
    plugin = cast("Any", trainer.accelerator.state).deepspeed_plugin if kind == DistributedType.DEEPSPEED else None
    if plugin is not None and plugin.zero_stage == 3 and not args.ds3_gather_for_generation:
        raise ValueError(
            "with ZeRO-3 and ds3_gather_for_generation=False every step of generation in process is a collective call, "
            "and episodes differ in length: processes would wait for each other for ever. Set "
            "ds3_gather_for_generation=True, or use vLLM"
        )


def _on_several_machines(trainer: GRPOTrainer) -> bool:
    return bool(trainer.accelerator.num_processes > int(os.environ.get("LOCAL_WORLD_SIZE", 1 << 30)))
