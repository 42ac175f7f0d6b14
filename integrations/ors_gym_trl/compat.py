"""Everything of TRL that this package uses, in one place.

TRL calls ``rollout_func`` experimental and does not promise its trainer's attributes. No other module of this package
imports TRL, reads an attribute of its trainer or configuration, or knows its names of a rollout's columns, except
:mod:`ors_gym_trl.hooks`.
"""

from __future__ import annotations

import copy
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any, Literal, TypeAlias, cast
from urllib.parse import urlsplit

import torch
from accelerate import DistributedType  # type: ignore[import-untyped]
from trl import GRPOTrainer, get_training_chat_template
from trl.models import unwrap_model_for_generation

log = logging.getLogger(__name__)

Trainer: TypeAlias = GRPOTrainer


def settings(trainer: Trainer) -> Any:
    """The trainer's ``GRPOConfig``."""
    return trainer.args


def max_completion_tokens(trainer: Trainer) -> int:
    """An episode's tokens after the prompt, the environment's included."""
    return int(settings(trainer).max_completion_length)


def is_training(trainer: Trainer) -> bool:
    """Whether the trainer trains, rather than evaluates."""
    return bool(cast("torch.nn.Module", trainer.model).training)


def group_size(trainer: Trainer, *, training: bool) -> int:
    """Members of a group."""
    return cast("int", trainer.num_generations if training else trainer.num_generations_eval)


def trained_models(trainer: Trainer) -> list[torch.nn.Module]:
    """The model and its reference, as they are called."""
    models = [model for model in (trainer.model, getattr(trainer, "ref_model", None)) if model is not None]
    return [cast("torch.nn.Module", trainer.accelerator.unwrap_model(model)) for model in models]


def pad_token_id(trainer: Trainer) -> int:
    """The token that rows are padded with."""
    processing: Any = trainer.processing_class
    return int(getattr(processing, "tokenizer", processing).pad_token_id)


def stop_tokens(trainer: Trainer) -> frozenset[int]:
    """The tokens that end a turn."""
    config = getattr(trainer, "generation_config", None)
    stops: Any = trainer.eos_token_ids if config is None else config.eos_token_id
    return frozenset(stops if isinstance(stops, list) else [stops])


def context_tokens(trainer: Trainer) -> int:
    """The maximum positions of the model and of a colocated engine."""
    config = cast("Any", trainer.accelerator.unwrap_model(trainer.model)).config.get_text_config()
    engine = settings(trainer).vllm_max_model_length
    return min(getattr(config, "max_position_embeddings", None) or sys.maxsize, engine or sys.maxsize)


def step(trainer: Trainer) -> int:
    """The number of updates so far."""
    return int(trainer.state.global_step)


def run_state(trainer: Trainer) -> object:
    """The values of a training for callbacks, from its start to its end."""
    return trainer.state


def train_dataset(trainer: Trainer) -> Any:
    """The dataset that is trained on."""
    return trainer.train_dataset


def processing_class(trainer: Trainer) -> Any:
    """The model's tokenizer, or its processor."""
    return trainer.processing_class


def rank(trainer: Trainer) -> int:
    """The number of this process, from 0."""
    return int(trainer.accelerator.process_index)


def gathered(trainer: Trainer, values: Sequence[float]) -> list[float]:
    """Gather the values of all processes, in order; a collective call with equally many values each."""
    local = torch.tensor(values, dtype=torch.float32, device=trainer.accelerator.device)
    return cast("list[float]", cast("Any", trainer.accelerator.gather(local)).tolist())


def temperature(trainer: Trainer) -> float:
    """The sampling temperature, at which the trainer computes log-probabilities."""
    return float(settings(trainer).temperature)


def seed(trainer: Trainer) -> int:
    """The seed of the run."""
    return int(settings(trainer).seed)


def training_chat_template(speaker: Any) -> str | None:
    """TRL's training template in place of a tokenizer's or processor's own; None where TRL has none."""
    try:
        return get_training_chat_template(speaker)
    except ValueError:
        return None


# ------------------------------------------------------------------- sampling


def backend(trainer: Trainer) -> Literal["padded", "continuous", "server", "colocate"]:
    """Where the trainer's configuration samples."""
    if trainer.use_vllm:
        return "server" if trainer.vllm_mode == "server" else "colocate"
    return "continuous" if trainer.use_transformers_continuous_batching else "padded"


@contextmanager
def model_for_generation(trainer: Trainer) -> Iterator[Any]:
    """The model, unwrapped once for a whole rollout.

    Gradient checkpointing is off (with it generation silently samples garbage), and DeepSpeed's ZeRO-3 has gathered
    the weights: processes whose episodes differ in length need no common calls until the rollout is over.
    """
    args = settings(trainer)
    options = {
        "gather_deepspeed3_params": args.ds3_gather_for_generation,
        "generation_kwargs": getattr(trainer, "generation_kwargs", None),
        "gradient_checkpointing_kwargs": args.gradient_checkpointing_kwargs,
    }
    known = inspect.signature(unwrap_model_for_generation).parameters
    unwrapped = unwrap_model_for_generation(
        trainer.model_wrapped,
        trainer.accelerator,
        **cast("dict[str, Any]", {name: value for name, value in options.items() if name in known}),
    )
    with unwrapped as model, torch.no_grad():
        yield model


def generation_config(trainer: Trainer) -> Any:
    """How the model generates in process."""
    return trainer.generation_config


def continuous_batching_settings(trainer: Trainer) -> tuple[Any, frozenset[str], bool]:
    """A copy of transformers' settings, the names of those that the user chose, and whether they are for a CPU."""
    chosen: Any = settings(trainer).transformers_continuous_batching_config or {}
    on_cpu = trainer.accelerator.device.type == "cpu"
    return copy.copy(trainer.continuous_batching_config), frozenset(chosen), on_cpu


def server_url(trainer: Trainer) -> str:
    """Where the vLLM server is, on every process: only the main one has TRL's ``vllm_client``."""
    args = settings(trainer)
    url = args.vllm_server_base_url or f"http://{args.vllm_server_host}:{args.vllm_server_port}"
    return str(url).rstrip("/").removesuffix("/v1")


def server_timeout(trainer: Trainer) -> float:
    """Seconds for which requests to an unreachable or busy vLLM server are retried."""
    return float(settings(trainer).vllm_server_timeout)


def sampling_parameters(trainer: Trainer) -> dict[str, Any]:
    """The trainer's sampling arguments as vLLM's parameters."""
    args = settings(trainer)
    parameters: dict[str, Any] = {
        "temperature": args.temperature,
        "top_p": args.top_p,
        "top_k": args.top_k,
        "min_p": 0.0 if args.min_p is None else args.min_p,
        "repetition_penalty": args.repetition_penalty,
    }
    if getattr(args, "vllm_structured_outputs_regex", None) is not None:
        parameters["structured_outputs"] = {"regex": args.vllm_structured_outputs_regex}
    return parameters | dict(getattr(args, "generation_kwargs", None) or {})


class ColocatedEngine:
    """The vLLM engine that shares the trainer's devices."""

    def __init__(self, trainer: Trainer) -> None:
        self._generation = cast("Any", trainer.vllm_generation)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Keep the engine awake for one rollout.

        With ``vllm_enable_sleep_mode`` TRL would put it to sleep after every turn and push all weights again.
        """
        generation = self._generation
        if not generation.enable_sleep_mode:
            yield
            return
        generation.sync_weights()  # wake the weights and load them again: sleeping discarded them
        generation.llm.wake_up(tags=["kv_cache"])
        generation.enable_sleep_mode = False
        try:
            yield
        finally:
            generation.enable_sleep_mode = True
            generation.llm.sleep(level=2)
            generation._llm_weights_sleeping = True

    def generate(
        self, prompts: list[list[int]], images: list[Any] | None, max_new_tokens: int
    ) -> tuple[list[list[int]], list[list[list[float | None]]] | None]:
        """The sampled tokens of each prompt, and for each of them a list whose first is its log-probability."""
        generation = self._generation
        configured = generation.max_completion_length
        generation.max_completion_length = max_new_tokens
        try:
            _, completions, logprobs, _ = generation.generate(prompts, images, 1)
        finally:
            generation.max_completion_length = configured
        return completions, logprobs


# -------------------------------------------------------------- configurations


def check_trainer(trainer: Trainer) -> None:
    """Refuse a trainer that would not train on what the rollout returns."""
    if getattr(trainer.args, "max_completion_length", None) is None:
        raise ValueError("GRPOConfig(max_completion_length=…) is needed: it is what limits an episode's tokens")
    if getattr(trainer, "tools", None):
        raise ValueError(
            "GRPOTrainer was given tools or environment_factory beside rollout_func; it would run its own tool loop on "
            "top and train on the environment's tokens. Drop them: the tools come from the ORS server."
        )


def check_backend(trainer: Trainer) -> None:
    """Refuse configurations in which processes would deadlock or use the wrong server."""
    args = settings(trainer)
    several = trainer.accelerator.num_processes > 1
    where = backend(trainer)
    if where in ("server", "colocate"):
        mode: str = args.vllm_importance_sampling_mode
        if args.vllm_importance_sampling_correction and mode.startswith("sequence"):
            log.warning(
                "vllm_importance_sampling_mode=%r multiplies the small differences between vLLM and the trained model "
                "over all turns of an episode, so long episodes count for nothing; 'token_truncate' does not",
                mode,
            )
        if where == "colocate" and args.vllm_tensor_parallel_size > 1:
            raise ValueError(
                f"vllm_tensor_parallel_size={args.vllm_tensor_parallel_size} in colocate mode makes processes generate "
                "in lockstep, and episodes have no common turns. Set vllm_tensor_parallel_size=1, or run the model in "
                'parallel on a server: vllm_mode="server"'
            )
        if where == "server" and several and _on_several_machines(trainer) and _is_local(server_url(trainer)):
            raise ValueError(
                f"the vLLM server's address {server_url(trainer)} means another machine on each node; "
                "set vllm_server_base_url to an address that every node reaches"
            )
        return
    if not several:
        return
    kind = trainer.accelerator.distributed_type
    if kind == DistributedType.FSDP:
        raise ValueError(
            "with FSDP every step of generation in process is a collective call, and episodes differ in length: "
            'processes would wait for each other forever. Use vLLM: use_vllm=True, vllm_mode="server" or "colocate"'
        )
    plugin = cast("Any", trainer.accelerator.state).deepspeed_plugin if kind == DistributedType.DEEPSPEED else None
    if plugin is not None and plugin.zero_stage == 3 and not args.ds3_gather_for_generation:
        raise ValueError(
            "with ZeRO-3 and ds3_gather_for_generation=False every step of generation in process is a collective call, "
            "and episodes differ in length: processes would wait for each other forever. Set "
            "ds3_gather_for_generation=True, or use vLLM"
        )


def _on_several_machines(trainer: Trainer) -> bool:
    return bool(trainer.accelerator.num_processes > int(os.environ.get("LOCAL_WORLD_SIZE", 1 << 30)))


def _is_local(url: str) -> bool:
    return urlsplit(url).hostname in ("0.0.0.0", "127.0.0.1", "localhost", "::1", None)


def groups_straddle(reason: str | None, trainer: Trainer, num_prompts: int, num_generations: int) -> bool:
    """Whether groups that the argument named by ``reason`` needs whole have their rows in several processes.

    Raises:
        ValueError: The batch of all processes is not made of whole groups.
    """
    if reason is None or trainer.accelerator.num_processes == 1 or num_prompts % num_generations == 0:
        return False
    everywhere = num_prompts * trainer.accelerator.num_processes
    if everywhere % num_generations:
        raise ValueError(
            f"{reason} needs whole groups of {num_generations}, and this batch has {everywhere} episodes in "
            f"{trainer.accelerator.num_processes} processes: make their number a multiple of {num_generations}"
        )
    return True


def batches_per_run(args: Any, max_steps: int) -> int:
    """The number of batches played in a training of ``max_steps`` steps."""
    updates = args.num_iterations * args.steps_per_generation / args.gradient_accumulation_steps
    return ceil(max_steps / max(1.0, cast("float", updates)))


# ------------------------------------------------------------- what goes back


RESERVED_COLUMNS = frozenset(
    {"prompt", "prompts", "completion", "completions", "completion_ids", "environment", "environments", "image"}
    | {"images", "tools", "trainer_state", "log_extra", "log_metric"}
)
"""Names that TRL uses for columns of a dataset or arguments of a reward function."""


def rollout_columns(rows: Sequence[Any], **further: list[Any]) -> dict[str, list[Any]]:
    """Token records as a rollout function returns them; reward functions receive the ``further`` columns."""
    return {
        "prompt_ids": [row.prompt_ids for row in rows],
        "completion_ids": [row.completion_ids for row in rows],
        "logprobs": [row.logprobs for row in rows],
        "env_mask": [row.mask for row in rows],
        **further,
    }


def log_rollout(columns: Mapping[str, Any], metrics: Mapping[str, float], table: Mapping[str, Sequence[str]]) -> None:
    """Add metrics to the trainer's logs and columns to its table of completions."""
    log_metric, log_extra = columns.get("log_metric"), columns.get("log_extra")
    if log_metric is not None:
        for name, value in metrics.items():
            log_metric(name, value)
    if log_extra is not None:
        for name, values in table.items():
            log_extra(name, values)


def replace_reward_functions(trainer: Trainer, replaced: Callable[[Any], Any]) -> None:
    """Replace each of the trainer's reward functions by ``replaced(function)``."""
    trainer.reward_funcs = [replaced(function) for function in trainer.reward_funcs]
