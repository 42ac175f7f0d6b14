r"""Train with GRPO on a Ray cluster: N trainer ranks, M rollout actors, and checkpoints to resume from.

Each rank is a worker of Ray Train that holds the model and plays its part of each batch; the episodes live in actors
of the same cluster. Without arguments a tiny model learns on this machine, on a CPU:

    python examples/train_grpo_ray.py
    python examples/train_grpo_ray.py --ranks 4 --actors 8 --address auto --model Qwen/Qwen3-0.6B --use-gpu \
        --url http://my-server:8080 --env wordle --storage /shared/runs

A batch has ``--prompts-per-step`` tasks in total, for any number of ranks. If a rank or its node is lost, all ranks
restart from the last checkpoint: as many as before, or, with ``--min-ranks``, as many as fit. A stopped run continues
if it is started again with the same ``--storage`` and ``--name``.

On a cluster the server, the storage folder and the examples' folder must be reachable from every node
(``ray job submit --working-dir .`` takes care of the last).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
sys.path.insert(0, str(Path(__file__).parent))

import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from train_grpo import SOLVED, add_training_arguments, ask_server, local_server, make_config, with_defaults

from ors_gym.client import Portal

PLACES = 64
"""Concurrent episodes of one actor."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser)
    where = parser.add_argument_group("where")
    where.add_argument("--ranks", type=int, default=2, help="trainer ranks (default: %(default)s)")
    where.add_argument("--min-ranks", type=int, metavar="N", help="minimum ranks to continue with if nodes are lost")
    where.add_argument("--actors", type=int, default=1, help="rollout actors of each rank (default: %(default)s)")
    where.add_argument("--use-gpu", action="store_true", help="give each rank a GPU")
    where.add_argument("--address", help="a Ray cluster to join; by default Ray is started")
    kept = parser.add_argument_group("what is kept")
    kept.add_argument("--storage", type=Path, default=Path("runs/ray"), help="a folder (default: %(default)s)")
    kept.add_argument("--name", default="grpo", help="of the run, there (default: %(default)s)")
    kept.add_argument("--save-steps", type=int, default=60, help="updates between checkpoints (default: %(default)s)")
    kept.add_argument("--max-failures", type=int, default=3, help="restarts of the ranks (default: %(default)s)")
    kept.add_argument("--trajectories", action="store_true", help="write every episode, to a file of each rank")
    return with_defaults(parser.parse_args())


def train_rank(settings: dict[str, Any]) -> None:
    """The program of each rank."""
    import ray.train
    from ray.train.huggingface.transformers import RayTrainReportCallback
    from train_grpo import make_tiny_model
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOTrainer

    from ors_gym import RolloutLimits
    from ors_gym_ray import RolloutPool
    from ors_gym_trl import ORSRollouts, TrajectoryCallback

    class Progress(TrainerCallback):
        """Prints the progress, and ends the demo when the task is solved. Every rank logs the same rewards."""

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            rewards = [log["reward"] for log in state.log_history if "reward" in log][-10:]
            if rank == 0 and state.global_step % 20 == 1:
                # Not print, whose lines Ray Train shows twice.
                sys.stdout.write(f"step {state.global_step}: mean reward of the last batches {fmean(rewards):.2f}\n")
            if tiny and len(rewards) == 10 and fmean(rewards) >= SOLVED:
                control.should_training_stop = control.should_save = True

    arguments = argparse.Namespace(**settings)
    context = ray.train.get_context()
    checkpoint = ray.train.get_checkpoint()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    tiny = arguments.model is None
    model, tokenizer = make_tiny_model(arguments.tools, arguments.seed) if tiny else (arguments.model, None)
    pool = RolloutPool(
        arguments.url,
        num_actors=arguments.actors,
        episodes_per_actor=PLACES,
        limits=RolloutLimits(max_turns=arguments.max_turns),
        actor_options={"num_cpus": 0 if tiny else 1},  # if actors need CPUs, the ranks must leave some
        name=f"{arguments.name}-rank{rank}",
    )
    rollouts = ORSRollouts(
        arguments.url,
        env_name=arguments.env,
        split=arguments.split,
        host=pool,
        parser=arguments.parser,
        max_turn_tokens=8 if tiny else None,
    )
    with pool, rollouts:
        folder = Path(arguments.storage)
        callbacks: list[Any] = [RayTrainReportCallback(), Progress()]  # type: ignore[no-untyped-call]
        if arguments.trajectories:
            run = {"rank": rank, "process": os.getpid(), "resumed_from": str(checkpoint.path) if checkpoint else None}
            callbacks.append(TrajectoryCallback(rollouts, folder / f"{arguments.name}.jsonl", run=run))
        config = make_config(
            arguments,
            folder / f"{arguments.name}-rank{rank}",
            ranks,
            save_strategy="steps",
            save_steps=arguments.save_steps,
            save_total_limit=1,
            ddp_find_unused_parameters=False,
        )
        trainer = GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            args=config,
            train_dataset=rollouts.train_dataset,
            rollout_func=rollouts.rollout_func,
            reward_funcs=rollouts.reward_funcs,
            callbacks=callbacks,
        )
        trainer.remove_callback(PrinterCallback)
        with checkpoint.as_directory() if checkpoint else contextlib.nullcontext() as saved:
            trainer.train(resume_from_checkpoint=f"{saved}/checkpoint" if saved else None)


def write_curve(checkpoint: Any, path: Path) -> list[tuple[int, float, float]]:
    """Write the curve from the ranks' logs: step, mean reward, seconds of training."""
    with checkpoint.as_directory() as saved:
        state = json.loads(Path(saved, "checkpoint", "trainer_state.json").read_text(encoding="utf-8"))
    seconds = 0.0
    curve: list[tuple[int, float, float]] = []
    for log in state["log_history"]:
        seconds += log.get("step_time", 0.0)
        if "reward" in log:
            curve.append((log["step"], log["reward"], seconds))
    rows = [f"{step},{reward:.4f},{spent:.1f}" for step, reward, spent in curve]
    path.write_text("\n".join(["step,reward,seconds", *rows]) + "\n", encoding="utf-8")
    return curve


def main() -> None:
    """Start a server if none is given, and train."""
    arguments = parse_arguments()
    arguments.storage = storage = str(arguments.storage.resolve())
    ranks: Any = arguments.ranks if arguments.min_ranks is None else (arguments.min_ranks, arguments.ranks)
    if Path(storage, arguments.name).exists():
        print(f"Continuing from the last checkpoint in {Path(storage, arguments.name)}; --name starts another run.")
    with contextlib.ExitStack() as cleanup:
        arguments.url = arguments.url or cleanup.enter_context(local_server())
        with Portal() as portal:
            arguments.env, arguments.tools = portal.run(ask_server(arguments.url, arguments.env))
        ray.init(address=arguments.address, log_to_driver=True)
        cleanup.callback(ray.shutdown)
        trainer = TorchTrainer(
            train_rank,
            train_loop_config=vars(arguments),
            scaling_config=ScalingConfig(num_workers=ranks, use_gpu=arguments.use_gpu),
            run_config=RunConfig(
                name=arguments.name,
                storage_path=storage,
                failure_config=FailureConfig(max_failures=arguments.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=1),
            ),
        )
        result = trainer.fit()
        curve = write_curve(result.checkpoint, path := Path(storage, f"{arguments.name}.csv"))
        print(
            f"Mean reward {fmean(reward for _, reward, _ in curve[-10:]):.2f} in the last ten batches, step by step in"
        )
        print(f"{path}; the model is in {result.checkpoint}")


if __name__ == "__main__":
    main()
