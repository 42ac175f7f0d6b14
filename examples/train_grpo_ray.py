r"""Train with GRPO on a Ray cluster: N trainer ranks, M rollout actors, and a checkpoint to go on from.

Each rank is a worker of Ray Train that holds the model and plays its slice of each batch; the episodes live in actors
of the same cluster. Without arguments a tiny model learns on this machine, on a CPU:

    python examples/train_grpo_ray.py
    python examples/train_grpo_ray.py --ranks 4 --actors 8 --address auto --model Qwen/Qwen3-0.6B --use-gpu \
        --url http://my-server:8080 --env wordle --storage /shared/runs

On a cluster the server, the storage folder and the examples' folder must be reachable from every node
(``ray job submit --working-dir .`` takes care of the last).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))

import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

PLACES = 64
"""Episodes that one actor plays at once."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a hub name or a path; without it a tiny model is made here")
    parser.add_argument("--url", help="an ORS server; without it one is started here (examples/buttons.py)")
    parser.add_argument("--env", default="buttons", help="the environment's name (default: %(default)s)")
    parser.add_argument("--ranks", type=int, default=2, help="trainer ranks (default: %(default)s)")
    parser.add_argument("--actors", type=int, default=1, help="rollout actors of each rank (default: %(default)s)")
    parser.add_argument("--use-gpu", action="store_true", help="give each rank a GPU")
    parser.add_argument("--steps", type=int, default=150, help="updates (default: %(default)s)")
    parser.add_argument("--save-steps", type=int, default=50, help="updates between checkpoints (default: %(default)s)")
    parser.add_argument("--max-rank-failures", type=int, default=3, help="restarts of the ranks (default: %(default)s)")
    parser.add_argument("--address", help="a Ray cluster to join; without it Ray is started here")
    parser.add_argument("--storage", type=Path, default=Path("runs/ray"), help="a folder (default: %(default)s)")
    return parser.parse_args()


def train_rank(settings: dict[str, Any]) -> None:
    """What each rank runs."""
    import ray.train
    import torch
    from ray.train.huggingface.transformers import RayTrainReportCallback
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    from ors_gym import RolloutLimits
    from ors_gym_ray import RolloutPool
    from ors_gym_trl import ORSRollouts

    tiny = settings["model"] is None
    model, tokenizer = make_tiny_model(settings) if tiny else (settings["model"], None)
    limits = RolloutLimits(max_turns=3 if tiny else 16)
    actor_options = {"num_cpus": 0 if tiny else 1}  # where actors ask for CPUs, the ranks must leave them some
    with (
        RolloutPool(
            settings["url"],
            num_actors=settings["actors"],
            episodes_per_actor=PLACES,
            limits=limits,
            actor_options=actor_options,
            name=f"rank{ray.train.get_context().get_world_rank()}",
        ) as pool,
        ORSRollouts(
            settings["url"], env_name=settings["env"], host=pool, max_turn_tokens=8 if tiny else None
        ) as rollouts,
    ):
        config = GRPOConfig(
            output_dir=str(Path(settings["storage"]) / f"rank{ray.train.get_context().get_world_rank()}"),
            per_device_train_batch_size=64 if tiny else 8,
            num_generations=8,
            max_steps=settings["steps"],
            max_completion_length=96 if tiny else 4096,
            learning_rate=1e-3 if tiny else 1e-6,
            lr_scheduler_type="constant",
            max_grad_norm=0.2,
            num_iterations=4 if tiny else 1,
            save_steps=settings["save_steps"],
            save_total_limit=1,
            logging_steps=10,
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            bf16=torch.cuda.is_available(),
            gradient_checkpointing=not tiny,
            seed=7,
        )
        trainer = GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            args=config,
            train_dataset=rollouts.train_dataset,
            rollout_func=rollouts.rollout_func,
            reward_funcs=rollouts.reward_funcs,
            callbacks=[RayTrainReportCallback()],  # type: ignore[no-untyped-call]
        )
        trainer.remove_callback(PrinterCallback)
        checkpoint = ray.train.get_checkpoint()
        with checkpoint.as_directory() if checkpoint else contextlib.nullcontext() as folder:
            trainer.train(resume_from_checkpoint=f"{folder}/checkpoint" if folder else None)


def make_tiny_model(settings: dict[str, Any]) -> tuple[Any, Any]:
    """A model that knows how a tool call is written, and nothing of the task; the same in each rank."""
    import asyncio

    import torch
    from tiny_model import make_model, make_tokenizer, warm_up

    from ors_gym import ORSClient
    from ors_gym.policies.templates import template_tools

    async def list_tools() -> Any:
        async with ORSClient(settings["url"]) as client:
            return await client.list_tools(settings["env"])

    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, seed=0)
    for _ in warm_up(model, tokenizer, template_tools(asyncio.run(list_tools())) or [], seed=0):
        pass
    return model, tokenizer


def main() -> None:
    """Start a server if none is given, and train."""
    from train_grpo import local_server

    arguments = parse_arguments()
    with contextlib.ExitStack() as cleanup:
        url = arguments.url or cleanup.enter_context(local_server())
        ray.init(address=arguments.address, log_to_driver=True)
        cleanup.callback(ray.shutdown)
        trainer = TorchTrainer(
            train_rank,
            train_loop_config={**vars(arguments), "url": url, "storage": str(arguments.storage.resolve())},
            scaling_config=ScalingConfig(num_workers=arguments.ranks, use_gpu=arguments.use_gpu),
            run_config=RunConfig(
                name="grpo",
                storage_path=str(arguments.storage.resolve()),
                failure_config=FailureConfig(max_failures=arguments.max_rank_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=1),
            ),
        )
        result = trainer.fit()
        metrics = result.metrics or {}
        print(f"Mean reward {metrics.get('reward', float('nan')):.2f} in the last logged batches; {result.checkpoint}")


if __name__ == "__main__":
    main()
