"""What a trainer's user sees: logs, the table of completions, trajectories, checkpoints that go on where they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ors_gym import FailurePolicy, ToolCall
from ors_gym.reporting import read_trajectories
from ors_gym.reporting.records import read_records
from ors_gym_trl import RolloutBatch, TrajectoryCallback
from tests.support.ors_servers import RunningServer
from tests.support.paths import ROOT
from tests.support.trl_runs import AT_ONCE, FailingHost, make_rollouts, make_trainer, one_thread, server
from tests.support.trl_says import Says

__all__ = ["make_rollouts", "one_thread", "server"]  # fixtures


def test_the_logs_say_what_the_rollouts_were_like(make_rollouts: Callable, server: RunningServer, tmp_path: Path):
    host = FailingHost(server, tasks={0, 1, 2, 3})
    rollouts = make_rollouts(host=host, failures=FailurePolicy(retries=0), max_tasks=8, parser=Says(ToolCall("look")))
    trainer = make_trainer(rollouts, tmp_path, per_device_train_batch_size=32, max_steps=1, num_generations=4)

    trainer.train()

    logs = next(entry for entry in trainer.state.log_history if "reward" in entry)
    documented = (ROOT / "docs/trl.md").read_text(encoding="utf-8")
    names = {name for name in logs if name.startswith("rollout/") and not name.startswith("rollout/failed/")}
    assert {name for name in names if f"`{name.removeprefix('rollout/stopped/')}`" not in documented} == set()
    assert logs["rollout/dropped_groups"] == 4
    assert logs["rollout/failed/connection_lost"] == 16
    assert logs["rollout/stopped/failed"] == 16
    assert logs["rollout/unscored"] == 16
    assert logs["rollout/zero_variance_groups"] == 1.0
    assert logs["rollout/refilled_groups"] == 0
    assert logs["rollout/episode_tokens"] > 0
    assert 0 < logs["rollout/sampling_seconds"] < logs["rollout/seconds"]
    assert 0 <= logs["rollout/environment_seconds"] <= logs["rollout/episode_seconds"]
    rollouts.portal.run(host.client.aclose())


def test_the_table_of_completions_shows_the_calls_and_how_each_episode_ended(
    make_rollouts: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rollouts = make_rollouts(parser=Says(ToolCall("look")), max_turn_tokens=48)
    trainer = make_trainer(rollouts, tmp_path, max_steps=1, log_completions=True)

    trainer.train()

    columns = trainer._logs["extra"]
    assert len(columns["tool_calls"]) == len(columns["task"]) == len(columns["stopped"]) == 8
    assert any("look {} → it is" in calls for calls in columns["tool_calls"])
    assert all(task.startswith("buttons:train[") for task in columns["task"])
    assert "tool_calls" in capsys.readouterr().out


def test_every_episode_is_written_and_can_be_read_back(make_rollouts: Callable, server: RunningServer, tmp_path: Path):
    host = FailingHost(server, first_attempts=True)
    rollouts = make_rollouts(host=host, failures=AT_ONCE)
    batches: list[RolloutBatch] = []
    rollouts.listeners.append(batches.append)
    path = tmp_path / "run.jsonl"
    callback = TrajectoryCallback(rollouts, path, run={"model": "tiny"}, secrets=["find the button ."])
    trainer = make_trainer(rollouts, tmp_path, callbacks=[callback])

    trainer.train()

    written = list(read_trajectories(path))
    assert [t.episode_id for t in written] == [t.episode_id for batch in batches for t in batch.trajectories]
    assert {record.run["model"] for record in read_records(path)} == {"tiny"}
    assert {record.note["step"] for record in read_records(path)} == {batch.step for batch in batches}
    assert {"trl", "transformers", "torch"} <= set(next(read_records(path)).versions)
    assert "find the button" not in path.read_text()
    rollouts.portal.run(host.client.aclose())


def test_a_resumed_run_continues_with_the_next_tasks(make_rollouts: Callable, tmp_path: Path):
    def tasks_of(**options: Any) -> list[list[int]]:
        rollouts = make_rollouts()
        batches: list[RolloutBatch] = []
        rollouts.listeners.append(batches.append)
        trainer = make_trainer(rollouts, tmp_path, max_steps=4, save_strategy="steps", save_steps=2)
        trainer.train(**options)
        return [[group.task.index for group in batch.groups] for batch in batches]

    whole = tasks_of()
    resumed = tasks_of(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))

    assert len(whole) == 4
    assert resumed == whole[2:]


def test_an_evaluation_may_have_groups_of_another_size(make_rollouts: Callable, tmp_path: Path):
    rollouts = make_rollouts(eval_split="test")
    batches: list[RolloutBatch] = []
    rollouts.listeners.append(batches.append)
    trainer = make_trainer(rollouts, tmp_path, per_device_eval_batch_size=8, num_generations_eval=2)

    trainer.evaluate()

    assert {len(group.members) for batch in batches for group in batch.groups} == {2}
