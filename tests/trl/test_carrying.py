"""Groups that are not complete when a batch is are carried over to the next one, and trained on whole."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openreward.environments import Environment, Split, TextBlock, ToolOutput, tool
from transformers import TrainerCallback
from trl import GRPOTrainer

from ors_gym import TaskRef, ToolCall, Trajectory
from ors_gym.trajectory import StopReason
from ors_gym_trl import ORSRollouts, RolloutBatch
from ors_gym_trl.sampling.in_process import PaddedSampler
from tests.support.ors_servers import RunningServer, serve, serve_app, server_loop
from tests.support.tiny_vllm import CompletionsServer, colocated_generation, in_server_mode
from tests.support.trl_runs import closed_rollouts, make_trainer, one_thread, prompts_of, token_sum, weights
from tests.support.trl_says import Says

__all__ = ["one_thread"]  # fixtures


class Steps(Environment):
    """Three calls an episode. One task is held: its second calls wait for the gate. It is the first one to be called.

    The last calls of other tasks wait for the four calls that are held, so that it is known what was sampled by then.
    """

    held: int | None = None
    waiting = 0
    gate: asyncio.Event
    all_wait: asyncio.Event

    def __init__(self, task_spec: Any = {}, secrets: Any = {}) -> None:  # noqa: B006  (the SDK's signature)
        super().__init__(task_spec, secrets)
        self.calls = 0

    @classmethod
    def list_splits(cls):
        return [Split(name="train", type="train"), Split(name="test", type="test")]

    @classmethod
    def list_tasks(cls, split):
        return [{"n": n, "of": split} for n in range(8)]

    def get_prompt(self):
        return [TextBlock(text="Go.")]

    @tool
    async def go(self) -> ToolOutput:
        """Go on."""
        self.calls += 1
        if self.task_spec["of"] == "train":
            Steps.held = self.task_spec["n"] if Steps.held is None else Steps.held
            if self.task_spec["n"] != Steps.held and self.calls == 3:
                await Steps.all_wait.wait()
            elif self.task_spec["n"] == Steps.held and self.calls == 2:
                Steps.waiting += 1
                if Steps.waiting == 4:
                    Steps.all_wait.set()
                await Steps.gate.wait()
        return ToolOutput(blocks=[TextBlock(text="on")], reward=0.5, finished=self.calls == 3)


def open_gate() -> None:
    server_loop().loop.call_soon_threadsafe(Steps.gate.set)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serve(Steps) as running:
        yield running


@pytest.fixture
def make_rollouts(server: RunningServer) -> Iterator[Callable[..., ORSRollouts]]:
    Steps.held, Steps.waiting, Steps.gate, Steps.all_wait = None, 0, asyncio.Event(), asyncio.Event()

    def make(**options: Any) -> ORSRollouts:
        options = {"env_name": "steps", "parser": Says(ToolCall("go")), "max_turn_tokens": 1} | options
        return rollouts_of(**options)

    with closed_rollouts(server) as rollouts_of:
        yield make


def trainer_of(rollouts: ORSRollouts, folder: Path, **settings: Any) -> GRPOTrainer:
    """A trainer in which every token ends a turn, and whose updates are large."""
    trainer = make_trainer(rollouts, folder, **({"learning_rate": 0.05, "max_steps": 3} | settings))
    trainer.generation_config.eos_token_id = list(range(len(trainer.processing_class)))
    return trainer


def logprobs_under(trainer: GRPOTrainer, vector: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The log-probabilities of the completions of one update's rows with these weights."""
    now = weights(trainer)
    parameters = list(trainer.model.parameters())
    torch.nn.utils.vector_to_parameters(vector, parameters)
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    with torch.no_grad():
        logprobs = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, inputs["completion_ids"].shape[1]
        )[0]
    torch.nn.utils.vector_to_parameters(now, parameters)
    return logprobs


@pytest.mark.parametrize("backend", ["padded", "server"])
def test_a_late_group_is_trained_on_in_the_next_batch_with_the_log_probabilities_it_was_sampled_with(
    make_rollouts: Callable, server: RunningServer, tmp_path: Path, backend: str
):
    rollouts = make_rollouts(carried_groups=1, max_staleness=1, eval_split="test")
    batches: list[RolloutBatch] = []
    updates: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []
    fields: list[tuple[int, int]] = []

    def hear(batch: RolloutBatch) -> None:
        batches.append(batch)
        if not batch.training:  # the evaluation after the first step: the late group is late until here
            open_gate()

    def own(n: list[int], ors_trajectory: list[Trajectory], completion_ids: Any, **columns: Any) -> list[float]:
        fields.extend((a, b.task.index) for a, b in zip(n, ors_trajectory, strict=True))
        return token_sum(completion_ids)

    rollouts.listeners.append(hear)
    trainer = trainer_of(
        rollouts,
        tmp_path,
        reward_funcs=[*rollouts.reward_funcs, own],
        eval_strategy="steps",
        eval_steps=1,
        per_device_eval_batch_size=8,
        vllm_importance_sampling_mode="token_truncate",
        vllm_importance_sampling_clip_max=1e9,
    )
    trainer.eval_dataset = trainer.eval_dataset.select([0, 1])
    compute_loss = trainer._compute_loss

    def spy(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        if trainer.model.training:
            updates.append((weights(trainer), dict(inputs)))
        return compute_loss(model, inputs)

    trainer._compute_loss = spy
    vllm = CompletionsServer(trainer.model)
    with serve_app(vllm.app) as running:
        if backend == "server":
            in_server_mode(trainer, running.url)
        trainer.train()

    assert not server.live_sessions, "the group in play at the end of the training was left"
    training = [batch for batch in batches if batch.training]
    assert [len(batch.groups) for batch in training] == [2, 2, 2]
    assert training[0].staleness == (0, 0)
    late = [group.task.index for group, age in zip(training[1].groups, training[1].staleness, strict=True) if age]
    assert late == [Steps.held]
    assert all(group.task.split == "test" for batch in batches if not batch.training for group in batch.groups)
    assert {member.stop_reason for batch in batches for member in batch.trajectories} == {StopReason.FINISHED}
    logged = [entry for entry in trainer.state.log_history if "rollout/staleness" in entry]
    assert [entry["rollout/staleness"] for entry in logged[:2]] == [0.0, 0.5]
    assert logged[1]["rollout/max_staleness"] == 1.0
    assert fields
    assert all(a == b for a, b in fields), "a reward function was given the columns of another row"

    (first, begun), (second, inputs), *_ = updates
    sampled = inputs["tool_mask"].bool() & inputs["completion_mask"].bool()
    as_sampled = inputs["sampling_per_token_logps"]
    before, after = (logprobs_under(trainer, vector, inputs) for vector in (first, second))
    by_earlier, by_current = (
        [near[turns].tolist() for near, turns in zip((as_sampled - one).abs() < 1e-3, sampled, strict=True)]
        for one in (before, after)
    )
    carried = [row for row, near in enumerate(by_current) if not all(near)]
    assert len(carried) == 4
    for row in carried:  # two turns were sampled before the update, and one after it
        assert by_earlier[row][:2] == [True, True]
        assert by_current[row][2]
    if backend == "server":
        expected = torch.where(sampled, (after - as_sampled).exp(), 1.0)
        assert torch.allclose(inputs["importance_sampling_ratio"], expected, rtol=1e-2)
    else:
        assert torch.equal(inputs["old_per_token_logps"], as_sampled)
        assert "old_per_token_logps" not in begun


class Interrupt(TrainerCallback):
    """Ctrl-C between two steps."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.open_then = 0

    def on_step_end(self, *arguments: Any, **given: Any) -> None:
        self.open_then = len(self.server.live_sessions)
        raise KeyboardInterrupt


def test_a_training_that_ends_by_an_exception_closes_the_sessions_of_its_groups_and_names_their_tasks(
    make_rollouts: Callable, server: RunningServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    rollouts = make_rollouts(carried_groups=1)
    interrupt = Interrupt(server)

    with caplog.at_level(logging.INFO, "ors_gym_trl"), pytest.raises(KeyboardInterrupt):
        trainer_of(rollouts, tmp_path, callbacks=[interrupt]).train()

    assert interrupt.open_then == 4
    assert not server.live_sessions
    assert f"in play, which are not trained on: steps:train[{Steps.held}]" in caplog.text
    assert "cancelled" not in caplog.text


def test_an_error_of_the_model_ends_the_groups_that_were_carried_over(
    make_rollouts: Callable, server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rollouts = make_rollouts(carried_groups=1)
    trainer = trainer_of(rollouts, tmp_path)
    rollouts.rollout_func(prompts_of(rollouts, [0] * 4 + [1] * 4), trainer)
    assert len(server.live_sessions) == 4

    def broken(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(PaddedSampler, "sample", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        rollouts.rollout_func(prompts_of(rollouts, [2] * 4 + [3] * 4), trainer)
    assert not server.live_sessions


class Turns:
    """Plays no server: an episode takes as many turns of the event loop as were drawn for it."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.begun: list[str] = []

    async def run_episode(
        self, task: TaskRef, *, policy: Any = None, attempt: int = 0, seed: int | None = None
    ) -> Trajectory:
        self.begun.append(episode_id := f"{len(self.begun)}")
        for _ in range(int(self.draw.lognormal(1, 2))):
            await asyncio.sleep(0)
        return Trajectory(episode_id, task, StopReason.FINISHED)


@pytest.mark.parametrize(("carried", "max_staleness"), [(1, 1), (2, 3), (4, 2), (4, 1)])
def test_every_group_that_began_is_trained_on_once_and_in_time_or_is_in_play(
    make_rollouts: Callable, tmp_path: Path, carried: int, max_staleness: int
):
    host = Turns(seed=carried)
    rollouts = make_rollouts(carried_groups=carried, max_staleness=max_staleness, host=host)
    batches: list[RolloutBatch] = []
    rollouts.listeners.append(batches.append)
    trainer = trainer_of(rollouts, tmp_path, num_generations=2)

    for number in range(12):
        tasks = [(number + place) % 8 for place in range(4) for _ in range(2)]
        columns = rollouts.rollout_func(prompts_of(rollouts, tasks), trainer)
        assert [one.episode_id for one in columns["ors_trajectory"]] == [
            member.episode_id for member in batches[-1].trajectories
        ]

    trained = Counter(member.episode_id for batch in batches for member in batch.trajectories)
    assert set(trained.values()) == {1}
    assert len(trained) == 12 * 8
    assert len(host.begun) == 12 * 8 + 2 * carried
    assert trained.keys() <= set(host.begun)
    assert all(len({member.task for member in group.members}) == 1 for batch in batches for group in batch.groups)
    assert any(any(batch.staleness) for batch in batches)
    assert max(age for batch in batches for age in batch.staleness) <= max_staleness


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"carried_groups": 3}, r"carried_groups=3.*2 whole groups"),
        ({"use_transformers_continuous_batching": True}, "continuous_batching"),
        ({"backend": "colocate"}, "colocate"),
        ({"backend": "server"}, "sequence_mask"),
        ({"carried_groups": -1}, "at least 0"),
        ({"max_staleness": 0}, "at least 1"),
    ],
)
def test_where_groups_cannot_be_carried_over_it_is_said_before_the_first_episode(
    make_rollouts: Callable,
    server: RunningServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    words: str,
):
    backend = settings.pop("backend", None)
    options = {name: settings.pop(name) for name in ("carried_groups", "max_staleness") if name in settings}
    with pytest.raises(ValueError, match=words):
        rollouts = make_rollouts(**({"carried_groups": 1} | options))
        trainer = trainer_of(rollouts, tmp_path, **settings)
        if backend == "server":
            in_server_mode(trainer, server.url)
        elif backend == "colocate":
            colocated_generation(trainer, monkeypatch)
        rollouts.rollout_func(prompts_of(rollouts, [0] * 4 + [1] * 4), trainer)
