"""ORSRolloutWorker against the classes that AsyncGRPOTrainer drains its worker with, and a server of the tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from trl.experimental.async_grpo import AsyncGRPOConfig
from trl.experimental.async_grpo.async_grpo_trainer import FixedCountBatcher, RolloutQueueDataset
from trl.experimental.async_grpo.async_rollout_worker import RolloutSample

from ors_gym import FailurePolicy, ToolCall, group_advantages
from ors_gym.dialects.actions import ParsedText
from ors_gym_trl import ORSRollouts, RolloutBatch
from ors_gym_trl.async_worker import ORSRolloutWorker
from tests.support.ors_servers import RunningServer, serve_app
from tests.support.tiny import make_model, make_tokenizer
from tests.support.tiny_vllm import CompletionsServer
from tests.support.trl_runs import AT_ONCE, FailingHost, make_rollouts, one_thread, server

__all__ = ["make_rollouts", "one_thread", "server"]  # fixtures

pytestmark = pytest.mark.slow


class LookThenPress:
    """Reads ``look`` or ``press`` in whatever an untrained model writes: by how long it is."""

    def parse(self, text: str) -> ParsedText:
        return ParsedText(text, (ToolCall("look") if len(text) % 2 else ToolCall("press", {"color": "red"}),))


@pytest.fixture
def completions() -> Iterator[CompletionsServer]:
    tokenizer = make_tokenizer()
    with_model = CompletionsServer(make_model(tokenizer, seed=0))
    with serve_app(with_model.app) as running:
        with_model.url = running.url
        yield with_model


@pytest.fixture
def make_worker(completions: CompletionsServer) -> Iterator[Callable[..., ORSRolloutWorker]]:
    made: list[ORSRolloutWorker] = []

    def make(rollouts: ORSRollouts, max_staleness: int = 4, **options: Any) -> ORSRolloutWorker:
        args = AsyncGRPOConfig(
            output_dir="unused",
            use_cpu=True,
            bf16=False,
            report_to="none",
            gradient_checkpointing=False,
            vllm_server_base_url=completions.url,
            num_generations=4,
            max_completion_length=128,
            max_staleness=max_staleness,
        )
        made.append(ORSRolloutWorker(rollouts, args, make_tokenizer(), **({"max_groups_ahead": 2} | options)))
        return made[-1]

    yield make
    for worker in made:
        worker.stop()


def take(worker: ORSRolloutWorker, count: int) -> list[RolloutSample]:
    worker.start()
    return [worker.rollout_buffer.get(timeout=30) for _ in range(count)]


def test_the_trainers_own_dataset_and_batcher_drain_the_worker(make_rollouts: Callable, make_worker: Callable):
    worker = make_worker(make_rollouts(max_turn_tokens=48, parser=LookThenPress()))
    worker.start()
    metrics: dict[str, list[float]] = {name: [] for name in METRICS_OF_THE_DATASET}
    dataset = RolloutQueueDataset(
        worker.rollout_buffer, lambda: worker.model_version, worker.check_health, 60.0, metrics, max_staleness=4
    )

    rows = next(iter(FixedCountBatcher(dataset, num_processes=2, microbatch_size=8)))

    assert sum(len(row.samples) for row in rows) == 8
    assert metrics["sample/staleness_max"] == [0.0] * 8
    assert worker.metrics_queue.get(timeout=30)["rollout/turns"] > 0


METRICS_OF_THE_DATASET = (
    "sample/dropped_stale_total",
    "sample/rollout_queue_size",
    "sample/time_in_queue_s",
    "sample/staleness_mean",
    "sample/staleness_max",
)


def test_a_row_holds_the_tokens_sampled_with_their_log_probabilities(
    make_rollouts: Callable, make_worker: Callable, completions: CompletionsServer
):
    samples = take(make_worker(make_rollouts(max_turn_tokens=48, parser=LookThenPress())), 8)

    for sample in samples:
        assert sample.input_ids.dtype == np.int64
        assert sample.old_log_probs.dtype == np.float32
        assert len(sample.input_ids) == len(sample.completion_mask) == len(sample.old_log_probs)
        with torch.no_grad():
            logits = completions.model(input_ids=torch.tensor(sample.input_ids[None])).logits[0].log_softmax(-1)
        again = logits[:-1].gather(1, torch.tensor(sample.input_ids[1:, None])).squeeze(1).numpy()
        trained = sample.completion_mask[1:].astype(bool)
        assert trained.any()
        assert np.abs(again - sample.old_log_probs[1:])[trained].max() < 1e-4


def test_samples_come_a_whole_group_at_a_time_with_the_advantages_of_the_group(
    make_rollouts: Callable, make_worker: Callable
):
    samples = take(make_worker(make_rollouts(max_turn_tokens=48, parser=LookThenPress())), 8)

    for group in (samples[:4], samples[4:]):
        assert len({sample.group_id for sample in group}) == 1
        assert len({sample.model_version for sample in group}) == 1
        returns = [sample.metrics["reward"] for sample in group]
        assert [sample.advantage for sample in group] == pytest.approx(group_advantages(returns).tolist())
    assert samples[0].group_id != samples[4].group_id


def test_turns_are_rows_of_their_own_with_advantages_of_their_own(make_rollouts: Callable, make_worker: Callable):
    rollouts = make_rollouts(max_turn_tokens=48, parser=LookThenPress())
    batches: list[RolloutBatch] = []
    rollouts.listeners.append(batches.append)
    samples = take(make_worker(rollouts, credit="turn"), 16)

    rows = [sample for sample in samples if sample.group_id == samples[0].group_id]
    assert len(rows) == sum(trajectory.num_turns for trajectory in batches[0].trajectories)
    for row in rows:
        trained = np.flatnonzero(row.completion_mask)
        assert trained[-1] - trained[0] + 1 == len(trained), "a row trains one turn"
        assert trained[-1] == len(row.input_ids) - 1


def test_a_group_is_tagged_with_the_version_that_was_live_when_it_began(make_rollouts: Callable, make_worker: Callable):
    worker = make_worker(make_rollouts(), max_groups_ahead=1)
    first = take(worker, 1)[0]
    worker.update_model_version(3)
    later = [worker.rollout_buffer.get(timeout=30) for _ in range(3 + 8)]

    assert first.model_version == 0
    assert later[-1].model_version == 3


def test_an_adapter_is_asked_for_by_the_name_of_its_version(
    make_rollouts: Callable, make_worker: Callable, completions: CompletionsServer
):
    worker = make_worker(make_rollouts(), max_groups_ahead=1, model=lambda version: f"adapter-v{version}")
    take(worker, 1)
    worker.update_model_version(1)
    for _ in range(3 + 8):
        worker.rollout_buffer.get(timeout=30)

    assert {request["model"] for request in completions.requests} == {"adapter-v0", "adapter-v1"}


def test_a_group_that_has_become_too_old_is_left_out_whole(make_rollouts: Callable, make_worker: Callable):
    rollouts = make_rollouts()
    worker = make_worker(rollouts, max_staleness=0, max_groups_ahead=1)
    # The version changes while the first group is played.
    play = rollouts.sources["buttons"].play

    async def play_and_age(*arguments: Any, **options: Any) -> Any:
        groups = await play(*arguments, **options)
        worker.update_model_version(min(1, worker.model_version + 1))
        return groups

    rollouts.sources["buttons"].play = play_and_age
    samples = take(worker, 4)

    assert {sample.model_version for sample in samples} == {1}
    assert worker.metrics_queue.get(timeout=30)["rollout/stale_groups_total"] == 1


def test_dropped_groups_and_failed_members_are_not_trained_on(
    make_rollouts: Callable, make_worker: Callable, server: RunningServer
):
    host = FailingHost(server, tasks=set(range(15)))
    rollouts = make_rollouts(host=host, failures=FailurePolicy(retries=0))
    samples = take(make_worker(rollouts), 4)

    assert {sample.metrics["reward"] for sample in samples} <= {0.0, 1.0}
    assert worker_tasks(samples) == 1
    rollouts.portal.run(host.client.aclose())


def worker_tasks(samples: list[RolloutSample]) -> int:
    return len({sample.group_id for sample in samples})


def test_no_more_groups_are_begun_than_asked_for(make_rollouts: Callable, make_worker: Callable):
    rollouts = make_rollouts(failures=AT_ONCE)
    worker = make_worker(rollouts, max_groups_ahead=3)
    worker.start()
    for _ in range(3):
        worker.metrics_queue.get(timeout=30)

    assert worker._next_group == 3
    worker.rollout_buffer.get(timeout=30)
    worker.check_health(60.0)


def test_groups_ahead_are_counted_as_groups_however_many_rows_they_have(make_rollouts: Callable, make_worker: Callable):
    rollouts = make_rollouts(max_turn_tokens=48, parser=LookThenPress())
    worker = make_worker(rollouts, max_groups_ahead=3, credit="turn")
    worker.start()
    for _ in range(3):
        worker.metrics_queue.get(timeout=30)

    assert worker._next_group == 3
    assert worker.rollout_buffer.qsize() > 3 * 4
    first = worker.rollout_buffer.get(timeout=30)
    while worker.rollout_buffer.get(timeout=30).group_id == first.group_id:
        pass
    worker.metrics_queue.get(timeout=30)
    assert worker._next_group == 4


def test_a_worker_that_was_stopped_can_be_started_again(make_rollouts: Callable, make_worker: Callable):
    worker = make_worker(make_rollouts(), max_groups_ahead=1)
    first = take(worker, 4)
    worker.stop()
    left = worker.rollout_buffer.qsize()

    again = take(worker, left + 4)

    assert again[-1].group_id > first[0].group_id
    worker.check_health(60.0)


def test_a_worker_whose_server_is_gone_says_so(
    make_rollouts: Callable, make_worker: Callable, completions: CompletionsServer
):
    completions.answers = "text"
    worker = make_worker(make_rollouts())
    worker.start()
    worker._thread.join(30)

    with pytest.raises(RuntimeError, match="return_token_ids"):
        worker.check_health(60.0)


def test_stopping_leaves_no_session(make_rollouts: Callable, make_worker: Callable, server: RunningServer):
    worker = make_worker(make_rollouts(parser=LookThenPress(), max_turn_tokens=48), max_groups_ahead=8)
    take(worker, 1)

    worker.stop()

    assert not server.live_sessions
