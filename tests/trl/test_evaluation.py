"""Evaluations between the steps of a training: the numbers of `ors-gym eval`, and every trajectory kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ors_gym import FailurePolicy, ToolCall
from ors_gym.evaluation import Rules, score_file
from ors_gym.reporting.page import RunRecord
from ors_gym.reporting.records import read_records
from ors_gym_trl import ReportCallback
from ors_gym_trl.evaluation import EvaluationCallback
from tests.support.ors_servers import RunningServer
from tests.support.trl_runs import FailingHost, make_rollouts, make_trainer, one_thread, server
from tests.support.trl_says import Says

__all__ = ["make_rollouts", "one_thread", "server"]  # fixtures


def test_each_evaluation_has_the_numbers_that_its_file_has_and_all_its_trajectories(
    make_rollouts: Callable, tmp_path: Path
):
    press = Says(ToolCall("look"), ToolCall("press", {"color": "red"}))  # right for some of the tasks
    rollouts = make_rollouts(eval_split="test", max_tasks=12, parser=press, max_turn_tokens=48)
    path = tmp_path / "evaluations.jsonl"
    callback = EvaluationCallback(rollouts, path)
    report = ReportCallback(rollouts, None, RunRecord("run"))
    options = {"per_device_eval_batch_size": 24, "num_generations_eval": 2, "eval_strategy": "steps", "eval_steps": 1}
    trainer = make_trainer(rollouts, tmp_path, callbacks=[callback, report], max_steps=1, **options)

    trainer.train()
    metrics = trainer.evaluate()

    steps = [evaluation.step for evaluation in callback.evaluations]
    assert steps == [1, 1]
    result = callback.evaluations[0].results["buttons"]
    assert result.counts["tasks"] == 12
    assert result.counts["episodes"] == 24
    assert 0.0 < result.success.value < 1.0
    logged = next(entry for entry in trainer.state.log_history if "eval_success_rate" in entry)
    assert logged["eval_success_rate"] == result.success.value
    assert (logged["eval_success_rate_low"], logged["eval_success_rate_high"]) == result.success.interval
    assert metrics["eval_tasks"] == 12.0
    assert metrics["eval_success_rate"] == result.success.value
    scored = {model.name: model for model in score_file(path).results}
    curves = report.record.curves
    first, _ = curves["evaluation: success rate"]
    assert (first.step, first.value, (first.low, first.high)) == (1, result.success.value, result.success.interval)
    assert {"loss", "entropy", "learning rate"} <= set(curves)
    # Two evaluations of the same step are epochs of one model.
    assert scored["step 1"].success.value == result.success.value
    assert scored["step 1"].counts["episodes"] == 48
    assert len(list(read_records(path))) == 2 * 24
    assert {record.trajectory.task.split for record in read_records(path)} == {"test"}


def test_failed_episodes_are_counted_apart_and_scored_by_nothing(
    make_rollouts: Callable, server: RunningServer, tmp_path: Path
):
    host = FailingHost(server, tasks={0, 1})
    rollouts = make_rollouts(eval_split="test", max_tasks=4, host=host, failures=FailurePolicy(retries=0))
    callback = EvaluationCallback(rollouts)
    trainer = make_trainer(
        rollouts, tmp_path, callbacks=[callback], per_device_eval_batch_size=8, num_generations_eval=2
    )

    metrics = trainer.evaluate()

    assert metrics["eval_failed"] == 4.0
    assert metrics["eval_episodes"] == 8.0
    assert callback.evaluations[0].results["buttons"].success.tasks == 2
    assert metrics["eval_success_rate"] == pytest.approx(callback.evaluations[0].results["buttons"].success.value)
    rollouts.portal.run(host.client.aclose())


def test_a_reward_that_is_a_function_needs_rules_for_evaluations(make_rollouts: Callable, tmp_path: Path):
    rollouts = make_rollouts(eval_split="test", reward=lambda episode: 0.5)
    with pytest.raises(ValueError, match=r"the reward of 'buttons' is a function.*rules=Rules"):
        make_trainer(rollouts, tmp_path, callbacks=[EvaluationCallback(rollouts)])
    make_trainer(rollouts, tmp_path, callbacks=[EvaluationCallback(rollouts, rules=Rules(reward="last"))])
