"""The two processes of a distributed training in ``tests/trl/test_processes.py``.

python -m tests.support.trl_processes ORS_URL VLLM_URL FOLDER

They are forked once all is imported, which takes longer than most trainings, and find in their environment what
``torchrun`` tells its processes.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from ors_gym import FailurePolicy, RolloutLimits, StopReason, TaskRef, ToolCall, Trajectory
from ors_gym.trajectory import Failure
from ors_gym_trl import ORSRollouts, RolloutBatch
from tests.support.ors_servers import free_port
from tests.support.tiny_vllm import in_server_mode
from tests.support.trl_runs import make_trainer, token_sum, weights
from tests.support.trl_says import Says

WORLD_SIZE = 2
ORS_URL, VLLM_URL, FOLDER = sys.argv[1], sys.argv[2], Path(sys.argv[3])


class Broken:
    """A host whose every episode fails."""

    async def run_episode(
        self, task: TaskRef, *, policy: Any = None, attempt: int = 0, seed: int | None = None
    ) -> Trajectory:
        return Trajectory(str(seed), task, StopReason.FAILED, failure=Failure("lost", "it broke"))


def train(
    rank: int,
    *,
    vllm: bool = False,
    failures: FailurePolicy | None = None,
    broken: bool = False,
    carried_groups: int = 0,
    **settings: Any,
) -> dict[str, Any]:
    """Train, with episodes of other lengths in each process, and say what was played here."""
    with ORSRollouts(
        ORS_URL,
        env_name="buttons",
        max_tasks=16,
        max_turn_tokens=48,
        parser=Says(ToolCall("look")),
        truncated_reward=0.0,
        stopped_reward=0.0,
        limits=None if broken else RolloutLimits(max_turns=1 + 3 * rank),
        host=Broken() if broken else None,
        failures=failures or FailurePolicy(),
        carried_groups=carried_groups,
    ) as rollouts:
        batches: list[RolloutBatch] = []
        rollouts.listeners.append(batches.append)
        rows: list[list[str]] = []

        def remember(completion_ids: list[list[int]], ors_trajectory: list[Trajectory], **columns: Any) -> list[float]:
            rows.append([trajectory.episode_id for trajectory in ors_trajectory])
            return token_sum(completion_ids)

        trainer = make_trainer(
            rollouts, FOLDER, max_completion_length=256, reward_funcs=[*rollouts.reward_funcs, remember], **settings
        )
        if vllm:
            in_server_mode(trainer, VLLM_URL)
        try:
            trainer.train()
        except (ValueError, RuntimeError) as error:
            return {"refused": str(error)}
        return {
            "groups": [[(g.task.index, len(g.members)) for g in batch.groups] for batch in batches],
            "played": [[t.episode_id for t in batch.trajectories] for batch in batches],
            "rows": rows,
            "turns": [sum(t.num_turns for t in batch.trajectories) for batch in batches],
            "steps": trainer.state.global_step,
            "weights": float(weights(trainer).double().abs().sum()),
            "logged_turns": [entry["rollout/turns"] for entry in trainer.state.log_history if "rollout/turns" in entry],
        }


def run_rank(rank: int) -> None:
    """All trainings of one process."""
    torch.set_num_threads(1)
    assert PartialState(cpu=True).process_index == rank
    whole, parts = {"per_device_train_batch_size": 8}, {"per_device_train_batch_size": 2}
    results = {
        "whole groups": train(rank, **whole),
        "parts of groups": train(rank, **parts),
        "groups put together": train(rank, failures=FailurePolicy(incomplete="drop"), **parts),
        "carried over": train(rank, carried_groups=1, per_device_train_batch_size=6, max_steps=3),
        "accumulation": train(rank, **parts, gradient_accumulation_steps=2, num_iterations=2, max_steps=4),
        "one process fails": train(rank, broken=rank == 0, failures=FailurePolicy(retries=0), max_steps=4, **whole),
        "all processes fail": train(rank, broken=True, failures=FailurePolicy(retries=0), max_steps=4, **whole),
        "vllm server": train(rank, vllm=True, learning_rate=0.0, **whole),
    }
    (FOLDER / f"rank{rank}.json").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


def main() -> None:
    """Fork a process for each rank, and end all when one of them fails."""
    gc.freeze()  # what is imported; each training collects garbage
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    os.environ |= {**told, "WORLD_SIZE": str(WORLD_SIZE), "LOCAL_WORLD_SIZE": str(WORLD_SIZE)}
    running = set[int]()
    for rank in range(WORLD_SIZE):
        process = os.fork()
        if process == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            try:
                run_rank(rank)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            sys.stderr.flush()
            os._exit(0)
        running.add(process)
    failed = False
    while running:
        process, status = os.wait()
        running.discard(process)
        if status and not failed:
            failed = True
            for other in running:
                os.kill(other, signal.SIGKILL)
    sys.exit(failed)


if __name__ == "__main__":
    main()
