"""What the trainer's tests share: the demo's environment on a server, rollouts on it, trainers of a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from ors_gym import EpisodeRunner, FailurePolicy, ORSClient, RolloutLimits, TaskRef, Trajectory
from ors_gym.trajectory import Failure, StopReason
from ors_gym_trl import ORSRollouts, RolloutBatch
from tests.support.chat_templates import QWEN, byte_tokenizer
from tests.support.ors_servers import RunningServer, serve
from tests.support.tiny import Buttons, make_model, make_tokenizer


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serve(Buttons) as running:
        yield running


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@contextmanager
def closed_rollouts(server: RunningServer) -> Iterator[Callable[..., ORSRollouts]]:
    """Makes rollouts of the server; closes them at the end, and no session may be left."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(ORSRollouts(server.url, **options))
    assert not server.live_sessions, "sessions were left on the server"


@pytest.fixture
def make_rollouts(server: RunningServer) -> Iterator[Callable[..., ORSRollouts]]:
    def make(**options: Any) -> ORSRollouts:
        defaults: dict[str, Any] = {"env_name": "buttons", "max_turn_tokens": 8}
        defaults |= {"truncated_reward": 0.0, "stopped_reward": 0.0}
        if "host" not in options:
            defaults["limits"] = RolloutLimits(max_turns=3)
        return rollouts_of(**(defaults | {"max_tasks": 16} | options))

    with closed_rollouts(server) as rollouts_of:
        yield make


def token_sum(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """A user's own reward function. An untrained model earns nothing from the environment, and differs in this."""
    return [-float(sum(ids)) for ids in completion_ids]


def make_trainer(
    rollouts: ORSRollouts,
    folder: Path,
    callbacks: Any = None,
    reward_funcs: Any = None,
    tokenizer: Any = None,
    model: Any = None,
    max_positions: int = 512,
    dataset: Any = None,
    **settings: Any,
) -> GRPOTrainer:
    tokenizer = tokenizer or make_tokenizer()
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 96,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "temperature": 1.0,
        "gradient_checkpointing": False,
        "eval_strategy": "no",
        "save_strategy": "no",
    }
    config = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **(defaults | settings),
    )
    if model is None:
        model = make_model(tokenizer, seed=0)
        model.config.max_position_embeddings = max_positions
    return GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        args=config,
        train_dataset=rollouts.train_dataset if dataset is None else dataset,
        eval_dataset=rollouts.eval_dataset,
        rollout_func=rollouts.rollout_func,
        reward_funcs=reward_funcs or rollouts.reward_funcs,
        callbacks=callbacks,
    )


def weights(trainer: GRPOTrainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in trainer.model.parameters()])


def prompts_of(rollouts: ORSRollouts, indices: list[int]) -> list[Any]:
    return [rollouts.train_dataset[i]["prompt"] for i in indices]


class FailingHost:
    """Plays on the server, but the episodes of some tasks fail, or every first attempt."""

    def __init__(self, server: RunningServer, *, tasks: set[int] = frozenset(), first_attempts: bool = False) -> None:
        self.client = ORSClient(server.url)
        self.runner = EpisodeRunner(self.client, limits=RolloutLimits(max_turns=3))
        self.tasks = tasks
        self.first_attempts = first_attempts

    async def run_episode(
        self, task: TaskRef, *, policy: Any = None, attempt: int = 0, seed: int | None = None
    ) -> Trajectory:
        if task.index in self.tasks or (self.first_attempts and attempt == 0):
            failure = Failure("connection_lost", "the world broke it")
            return Trajectory(f"broken-{id(object())}", task, StopReason.FAILED, failure=failure, attempt=attempt)
        return await self.runner.run_episode(task, policy=policy, attempt=attempt, seed=seed)


AT_ONCE = FailurePolicy(retries=1, retry_delay_seconds=0)


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[dict[str, list[Any]], RolloutBatch]]:
    """Play a group of four of each given row of the training dataset; every token a model samples ends its turn."""

    def play(rollouts: ORSRollouts, *rows: int) -> tuple[dict[str, list[Any]], RolloutBatch]:
        trainer = make_trainer(
            rollouts,
            tmp_path,
            tokenizer=byte_tokenizer(QWEN),
            max_positions=8192,
            max_completion_length=4096,
        )
        trainer.generation_config.eos_token_id = list(range(len(trainer.processing_class)))
        batches: list[RolloutBatch] = []
        rollouts.listeners.append(batches.append)
        prompts = [rollouts.train_dataset[row]["prompt"] for row in rows for _ in range(4)]
        columns = rollouts.rollout_func(prompts, trainer)
        columns["prompt_text"] = trainer.processing_class.batch_decode(columns["prompt_ids"])
        columns["completion_text"] = trainer.processing_class.batch_decode(columns["completion_ids"])
        return columns, batches[0]

    return play
