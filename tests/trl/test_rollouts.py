"""ORSRollouts under TRL's own GRPOTrainer, on the reference server, with the demo's tiny model and environment."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ors_gym import RolloutLimits, StopReason, TaskRef, ToolCall
from ors_gym.errors import NotFoundError
from ors_gym.reporting.page import RunRecord
from ors_gym_trl import ORSRollouts, ReportCallback, RolloutBatch, SamplingMismatchError
from ors_gym_trl.checks import check_sampling
from ors_gym_trl.sampling.in_process import PaddedSampler
from ors_gym_trl.sampling.sampler import SamplingRequest
from ors_gym_trl.tokens.record import TokenRecord
from tests.support.ors_servers import RunningServer
from tests.support.trl_runs import (
    AT_ONCE,
    FailingHost,
    make_rollouts,
    make_trainer,
    one_thread,
    prompts_of,
    server,
    token_sum,
    weights,
)
from tests.support.trl_says import Says

__all__ = ["make_rollouts", "one_thread", "server"]  # fixtures


def test_a_trainer_trains_on_ors_episodes(make_rollouts: Callable, tmp_path: Path):
    rollouts = make_rollouts()
    batches: list[RolloutBatch] = []
    rollouts.listeners.append(batches.append)
    trainer = make_trainer(rollouts, tmp_path, reward_funcs=[*rollouts.reward_funcs, token_sum])
    before = weights(trainer)

    trainer.train()

    assert not torch.equal(before, weights(trainer))
    assert len(batches) == 2
    assert [len(group.members) for group in batches[0].groups] == [4, 4]
    logs = next(entry for entry in trainer.state.log_history if "reward" in entry)
    returns = [value for value in batches[0].returns if value is not None]
    assert logs["rewards/ors_return/mean"] == pytest.approx(sum(returns) / len(returns))
    assert logs["rollout/turns"] == pytest.approx(
        sum(member.num_turns for member in batches[0].trajectories) / len(batches[0].trajectories)
    )


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_the_tokens_trained_on_are_those_sampled_and_their_log_probabilities_are_the_trainers(
    make_rollouts: Callable, tmp_path: Path, gradient_checkpointing: bool
):
    rollouts = make_rollouts()
    trainer = make_trainer(rollouts, tmp_path, gradient_checkpointing=gradient_checkpointing)
    trainer.model.train()

    rows = rollouts.rollout_func(prompts_of(rollouts, [0] * 4 + [1] * 4), trainer)

    assert {len(column) for column in rows.values()} == {8}
    for prompt, completion, logprobs, mask in zip(
        rows["prompt_ids"], rows["completion_ids"], rows["logprobs"], rows["env_mask"], strict=True
    ):
        assert len(completion) == len(logprobs) == len(mask)
        assert mask[0] == mask[-1] == 1
        ids = torch.tensor([prompt + completion])
        with torch.no_grad():
            again, _, _ = trainer._get_per_token_logps_and_entropies(
                trainer.model, ids, torch.ones_like(ids), len(completion)
            )
        sampled = torch.tensor(mask).bool()
        assert (again[0] - torch.tensor(logprobs))[sampled].abs().max() < 1e-4


def test_the_completion_reads_as_the_conversation_that_was_held(make_rollouts: Callable, tmp_path: Path):
    rollouts = make_rollouts()
    batches: list[RolloutBatch] = []
    rollouts.listeners.append(batches.append)
    trainer = make_trainer(rollouts, tmp_path)

    rows = rollouts.rollout_func(prompts_of(rollouts, [0] * 8), trainer)

    for trajectory, prompt, completion in zip(
        batches[0].trajectories, rows["prompt_ids"], rows["completion_ids"], strict=True
    ):
        text = trainer.processing_class.decode(prompt + completion)
        assert "find the button ." in text
        assert text.count("<|im_start|>assistant") == trajectory.num_turns


def test_a_failed_episode_moves_neither_weights_nor_baseline(
    make_rollouts: Callable, server: RunningServer, tmp_path: Path
):
    host = FailingHost(server, tasks={0})
    rollouts = make_rollouts(host=host, failures=AT_ONCE)
    trainer = make_trainer(rollouts, tmp_path)

    rows = rollouts.rollout_func(prompts_of(rollouts, [0] * 4 + [1] * 4), trainer)

    assert rows["ors_return"][:4] == [None] * 4
    assert all(value is not None for value in rows["ors_return"][4:])
    assert [sum(mask) for mask in rows["env_mask"][:4]] == [0] * 4
    assert all(rows["completion_ids"])
    rollouts.portal.run(host.client.aclose())


def test_a_failed_episode_is_played_again_and_counted(make_rollouts: Callable, server: RunningServer, tmp_path: Path):
    host = FailingHost(server, first_attempts=True)
    rollouts = make_rollouts(host=host, failures=AT_ONCE)
    trainer = make_trainer(rollouts, tmp_path, max_steps=1)

    trainer.train()

    logs = next(entry for entry in trainer.state.log_history if "reward" in entry)
    assert logs["rollout/failed/connection_lost"] == 8
    assert logs["rollout/unscored"] == 0
    assert logs["rollout/dropped_groups"] == 0
    rollouts.portal.run(host.client.aclose())


def test_several_batches_of_nothing_but_failures_stop_the_training_and_say_why(
    make_rollouts: Callable, server: RunningServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    host = FailingHost(server, tasks=set(range(16)))
    rollouts = make_rollouts(host=host, failures=AT_ONCE, max_failed_batches=2)
    batches: list[RolloutBatch] = []
    rollouts.listeners.append(batches.append)
    trainer = make_trainer(rollouts, tmp_path)
    before = weights(trainer)

    with pytest.raises(RuntimeError, match=r"every episode of 2 batches in a row failed.*connection_lost: the world"):
        trainer.train()
    assert len(batches) == 1
    assert "every episode of 1 batches" in caplog.text
    assert torch.equal(before, weights(trainer))
    rollouts.portal.run(host.client.aclose())


def test_only_episodes_whose_last_turn_was_cut_off_count_as_clipped(make_rollouts: Callable, tmp_path: Path):
    rollouts = make_rollouts(max_turn_tokens=48, parser=Says(ToolCall("look")))
    batches: list[RolloutBatch] = []
    rollouts.listeners.append(batches.append)
    trainer = make_trainer(rollouts, tmp_path, max_steps=1, max_completion_length=256)

    trainer.train()

    logs = next(entry for entry in trainer.state.log_history if "reward" in entry)
    clipped = [t.stop_reason is StopReason.MAX_TOKENS for t in batches[0].trajectories]
    assert logs["completions/clipped_ratio"] == pytest.approx(sum(clipped) / len(clipped))


def test_an_episode_never_grows_beyond_the_completion_length(make_rollouts: Callable, tmp_path: Path):
    rollouts = make_rollouts(max_turn_tokens=None)
    trainer = make_trainer(rollouts, tmp_path, max_completion_length=12)

    rows = rollouts.rollout_func(prompts_of(rollouts, [0] * 8), trainer)

    assert max(map(len, rows["completion_ids"])) <= 12


def test_an_episode_never_grows_beyond_the_models_positions(make_rollouts: Callable, tmp_path: Path):
    rollouts = make_rollouts(max_turn_tokens=None)
    trainer = make_trainer(rollouts, tmp_path)
    trainer.model.config.max_position_embeddings = 40

    rows = rollouts.rollout_func(prompts_of(rollouts, [0] * 8), trainer)

    lengths = [len(p) + len(c) for p, c in zip(rows["prompt_ids"], rows["completion_ids"], strict=True)]
    assert max(lengths) <= 40


def test_a_turn_may_end_with_any_of_the_models_stop_tokens(make_rollouts: Callable, tmp_path: Path):
    rollouts = make_rollouts()
    trainer = make_trainer(rollouts, tmp_path)
    stops = [trainer.processing_class.eos_token_id, trainer.processing_class.convert_tokens_to_ids("look")]
    trainer.generation_config.eos_token_id = stops

    with PaddedSampler.of_trainer(trainer).open() as sampler:
        sampled = sampler.sample([SamplingRequest([5, 6, 7], 32) for _ in range(64)])

    assert {one.ids[-1] for one in sampled if one.ended} == set(stops)
    assert all(len(one.ids) == 32 for one in sampled if not one.ended)
    assert all(len(one.ids) == len(one.logprobs) for one in sampled)


def test_an_interrupted_batch_leaves_no_session(
    make_rollouts: Callable, server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rollouts = make_rollouts()
    trainer = make_trainer(rollouts, tmp_path)
    open_then: list[int] = []

    def interrupted(*_: Any) -> None:
        open_then.append(len(server.live_sessions))
        raise KeyboardInterrupt

    monkeypatch.setattr(PaddedSampler, "sample", interrupted)

    with pytest.raises(KeyboardInterrupt):
        rollouts.rollout_func(prompts_of(rollouts, [0] * 8), trainer)
    assert open_then[0] > 0
    rollouts.close()
    assert not server.live_sessions


def test_samples_that_do_not_come_from_the_trained_weights_stop_the_run(make_rollouts: Callable, tmp_path: Path):
    rollouts = make_rollouts()
    trainer = make_trainer(rollouts, tmp_path)
    rows = rollouts.rollout_func(prompts_of(rollouts, [0] * 8), trainer)
    records = [
        TokenRecord(p, c, lps, mask)
        for p, c, lps, mask in zip(
            rows["prompt_ids"], rows["completion_ids"], rows["logprobs"], rows["env_mask"], strict=True
        )
    ]
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(torch.randn_like(parameter))

    with pytest.raises(SamplingMismatchError, match="nats"):
        check_sampling(trainer, records)


def test_every_process_checks_by_the_same_number_of_forward_passes(make_rollouts: Callable, tmp_path: Path):
    trainer = make_trainer(make_rollouts(), tmp_path)
    failed = TokenRecord([5, 6])
    failed.add_environment([7])
    passes: list[Any] = []
    trainer.model.register_forward_hook(lambda module, given, output: passes.append(output.logits.shape))

    check_sampling(trainer, [failed])
    check_sampling(trainer, [failed] * 9)

    assert len(passes) == 8


def test_a_trainer_with_its_own_tools_is_refused(make_rollouts: Callable, tmp_path: Path):
    rollouts = make_rollouts()
    trainer = make_trainer(rollouts, tmp_path)
    trainer.tools = [print]

    with pytest.raises(ValueError, match="environment_factory"):
        rollouts.rollout_func(prompts_of(rollouts, [0]), trainer)


def test_a_prompt_that_names_no_task_is_refused(make_rollouts: Callable, tmp_path: Path):
    rollouts = make_rollouts()
    trainer = make_trainer(rollouts, tmp_path)

    with pytest.raises(ValueError, match="train_dataset"):
        rollouts.rollout_func([[{"role": "user", "content": "hello"}]], trainer)


def test_a_dataset_row_names_its_task_and_survives_arrow(make_rollouts: Callable):
    own = TaskRef("buttons", task={"id": "mine", "color": "red"})
    rollouts = make_rollouts(tasks=[3, own])

    first, second = rollouts.train_dataset["prompt"]

    assert first[0]["content"] == "buttons:train[3]"
    assert first[0]["ors"] == {"source": "buttons", "env_name": "buttons", "split": "train", "index": 3, "task": None}
    assert second[0]["ors"]["task"] == '{"color": "red", "id": "mine"}'


def test_a_task_object_of_ones_own_is_played(make_rollouts: Callable, tmp_path: Path):
    rollouts = make_rollouts(tasks=[TaskRef("buttons", task={"id": "mine", "color": "red"})])
    trainer = make_trainer(rollouts, tmp_path)

    assert len(rollouts.rollout_func(prompts_of(rollouts, [0] * 4), trainer)["ors_return"]) == 4


def test_evaluation_plays_the_tasks_of_its_own_split(make_rollouts: Callable, tmp_path: Path):
    rollouts = make_rollouts(eval_split="test")
    batches: list[RolloutBatch] = []
    rollouts.listeners.append(batches.append)
    trainer = make_trainer(rollouts, tmp_path, per_device_eval_batch_size=8)

    metrics = trainer.evaluate()

    assert 0.0 <= metrics["eval_reward"] <= 1.0
    assert {group.task.split for batch in batches for group in batch.groups} == {"test"}
    assert not any(batch.training for batch in batches)


@pytest.mark.parametrize(("options", "words"), [({"env_name": "butons"}, "buttons"), ({"split": "trian"}, "train")])
def test_a_name_that_the_server_does_not_know_is_an_error_before_training_that_lists_what_there_is(
    make_rollouts: Callable, options: dict, words: str
):
    with pytest.raises((NotFoundError, ValueError), match=re.escape(words)):
        make_rollouts(**options).train_dataset  # noqa: B018


def test_no_tasks_are_refused(make_rollouts: Callable):
    with pytest.raises(ValueError, match="no tasks"):
        make_rollouts(tasks=[]).train_dataset  # noqa: B018


def test_limits_with_a_host_are_refused(server: RunningServer):
    with pytest.raises(ValueError, match="belong to the host"):
        ORSRollouts(server.url, env_name="buttons", host=FailingHost(server), limits=RolloutLimits())


def test_the_report_is_written_during_the_training(make_rollouts: Callable, tmp_path: Path):
    rollouts = make_rollouts()
    record, page = RunRecord(title="buttons"), tmp_path / "report.html"
    steps: list[int] = []
    callback = ReportCallback(
        rollouts, page, record, write_every_steps=1, on_step=lambda step: steps.append(page.exists())
    )
    trainer = make_trainer(rollouts, tmp_path, callbacks=[callback], max_steps=3)

    trainer.train()

    assert steps == [False, True, True]
    assert [step.step for step in record.steps] == [1, 2, 3]
    assert all(step.episodes == 8 for step in record.steps)
    assert record.samples
    assert record.ended == "finished"


def test_a_batch_that_is_reused_is_one_step_of_the_report(make_rollouts: Callable, tmp_path: Path):
    rollouts = make_rollouts()
    record = RunRecord(title="buttons")
    callback = ReportCallback(rollouts, None, record)
    trainer = make_trainer(rollouts, tmp_path, callbacks=[callback], max_steps=4, num_iterations=2)

    trainer.train()

    assert [step.step for step in record.steps] == [1, 3]
    assert record.total_steps == 2
    assert all(step.training_seconds for step in record.steps)


@pytest.mark.parametrize(
    ("settings", "batches_played", "steps_recorded"),
    [
        ({"steps_per_generation": 4, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}, 2, [1, 3]),
        (
            {"steps_per_generation": 1, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 8},
            8,
            [1, 2, 3, 4],
        ),
    ],
)
def test_a_batch_lasts_for_as_many_steps_as_it_is_generated_for(
    make_rollouts: Callable, tmp_path: Path, settings: dict, batches_played: int, steps_recorded: list[int]
):
    rollouts = make_rollouts()
    record = RunRecord(title="buttons")
    batches: list[RolloutBatch] = []
    rollouts.listeners.append(batches.append)
    callbacks = [ReportCallback(rollouts, None, record)]
    trainer = make_trainer(
        rollouts, tmp_path, callbacks, reward_funcs=[*rollouts.reward_funcs, token_sum], max_steps=4, **settings
    )
    before = weights(trainer)

    trainer.train()

    assert not torch.equal(before, weights(trainer))
    assert [[len(group.members) for group in batch.groups] for batch in batches] == [[4, 4]] * batches_played
    assert [step.step for step in record.steps] == steps_recorded
    assert record.total_steps == len(steps_recorded)
    for entry in trainer.state.log_history[: len(steps_recorded)]:
        stopped = [value for name, value in entry.items() if name.startswith("rollout/stopped/")]
        assert not stopped or sum(stopped) == 8
