"""What episodes are worth to the trainer: defaults that learn, and failures that stay out whatever rewards them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOTrainer

from ors_gym import FailurePolicy, Message, StopReason, TaskRef, TextBlock, Trajectory, Turn
from ors_gym.trajectory import Exchange, Failure, Reply, Transition
from ors_gym.types import ToolCall, ToolList, ToolOutput
from ors_gym_trl import RolloutBatch
from ors_gym_trl.rewards import ScoredRows, own_reward
from tests.support.ors_servers import RunningServer
from tests.support.trl_runs import FailingHost, make_rollouts, make_trainer, one_thread, prompts_of, server, weights
from tests.support.trl_says import Says

__all__ = ["make_rollouts", "one_thread", "server"]  # fixtures


class Ends:
    """Plays each member of a group, once, to the end that stands at its place; the model is asked for one turn."""

    def __init__(self, server: RunningServer, *ends: tuple[StopReason, float | None]) -> None:
        self.ends = ends
        self.begun = 0

    async def run_episode(
        self, task: TaskRef, *, policy: Any = None, attempt: int = 0, seed: int | None = None
    ) -> Trajectory:
        place, self.begun = self.begun % len(self.ends), self.begun + 1
        reason, reward = self.ends[place]
        episode_id = f"episode {self.begun}"
        prompt = (Message("user", (TextBlock("find the button ."),)),)
        await policy.act(Turn(episode_id, task, prompt, ToolList(), seed=seed))
        step = Transition(ToolCall("press", id="call_0"), ToolOutput(reward=reward), 0.0)
        exchange = Exchange(Reply(tool_calls=(step.action,)), (step,))
        failure = Failure("lost", "lost") if reason.failed else None
        return Trajectory(episode_id, task, reason, prompt, (exchange,), failure=failure, attempt=attempt)


SOLVED, GAVE_UP = (StopReason.FINISHED, 1.0), (StopReason.POLICY_STOPPED, None)
CUT_OFF, BROKEN = (StopReason.MAX_TOKENS, None), (StopReason.FAILED, None)
ONCE = FailurePolicy(retries=0)


def one_group(
    make_rollouts: Callable, server: RunningServer, tmp_path: Path, *ends: Any, rewards: Any = (), **options: Any
) -> tuple[GRPOTrainer, dict[str, Any]]:
    """Train one step on one group of four."""
    bare = {"truncated_reward": None, "stopped_reward": None, "limits": None, "failures": ONCE}
    rollouts = make_rollouts(host=Ends(server, *ends), **(bare | options))
    trainer = make_trainer(
        rollouts,
        tmp_path,
        reward_funcs=[*rollouts.reward_funcs, *rewards],
        per_device_train_batch_size=4,
        max_steps=1,
    )
    trainer.train()
    return trainer, next(entry for entry in trainer.state.log_history if "reward" in entry)


def advantages(trainer: GRPOTrainer) -> list[float]:
    return list(trainer._logs["advantages"])


def test_a_group_that_solved_gave_up_and_was_cut_off_has_advantages_that_learn(
    make_rollouts: Callable, server: RunningServer, tmp_path: Path
):
    trainer, logs = one_group(make_rollouts, server, tmp_path, SOLVED, SOLVED, GAVE_UP, CUT_OFF)

    assert advantages(trainer) == pytest.approx([0.866, 0.866, -0.866, -0.866], abs=1e-3)
    assert logs["rewards/ors_return/mean"] == 0.5


def test_episodes_without_a_reward_can_be_left_out_and_the_logs_still_say_what_was_written(
    make_rollouts: Callable, server: RunningServer, tmp_path: Path
):
    ends = SOLVED, SOLVED, GAVE_UP, CUT_OFF
    trainer, logs = one_group(make_rollouts, server, tmp_path, *ends, unrewarded_return=None)

    assert advantages(trainer) == [0.0] * 4
    assert logs["rollout/unscored"] == 2
    assert logs["completions/min_length"] > 0
    assert logs["rollout/episode_tokens"] > 0


def length(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    return [1.0 for _ in completion_ids]


async def length_later(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    return length(completion_ids)


class Always(torch.nn.Module):
    """A reward model that likes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.config = type("Config", (), {"_name_or_path": "always", "num_labels": 1})()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: torch.Tensor, **inputs: Any) -> Any:
        return type("Output", (), {"logits": torch.ones(len(input_ids), 1)})()


@pytest.mark.parametrize("own", [length, length_later], ids=["plain", "async"])
def test_a_failed_episode_stays_out_of_the_baseline_despite_other_rewards(
    make_rollouts: Callable, server: RunningServer, tmp_path: Path, own: Any
):
    trainer, logs = one_group(make_rollouts, server, tmp_path, SOLVED, SOLVED, SOLVED, BROKEN, rewards=[own])

    assert advantages(trainer) == [0.0] * 4
    assert logs["reward"] == 2.0


def test_own_reward_functions_see_the_conversation_the_mask_the_task_and_only_episodes_that_count(
    make_rollouts: Callable, server: RunningServer, tmp_path: Path
):
    seen: list[dict[str, Any]] = []

    def own(log_extra: Any, **columns: Any) -> list[float]:
        seen.append(columns)
        log_extra("length", [len(completion) for completion in columns["completions"]])
        return [0.0] * len(columns["prompts"])

    host = FailingHost(server, tasks={1})
    rollouts = make_rollouts(host=host, failures=ONCE, parser=Says(ToolCall("look")), max_turn_tokens=48, tasks=[0, 1])
    functions = [*rollouts.reward_funcs, own]
    trainer = make_trainer(rollouts, tmp_path, reward_funcs=functions, max_steps=1, max_completion_length=256)
    trainer.train()

    (columns,) = seen
    assert len(columns["ors_trajectory"]) == len(columns["completions"]) == len(columns["completion_ids"]) == 4
    for completion, member in zip(columns["completions"], columns["ors_trajectory"], strict=True):
        assert [message["role"] for message in completion[:2]] == ["assistant", "tool"]
        assert completion[1]["name"] == "look"
        assert completion[1]["content"].startswith("it is ")
        # The target, which the model has to find out.
        assert member.task.task["color"] in completion[1]["content"]
    assert [member.task.task["color"] for member in columns["ors_trajectory"]] == columns["color"]
    assert [prompt[-1]["content"] for prompt in columns["prompts"]] == ["find the button ."] * 4
    assert [len(mask) for mask in columns["env_mask"]] == [len(ids) for ids in columns["completion_ids"]]
    assert trainer._logs["extra"]["length"].count(None) == 4
    assert functions[1] is own
    rollouts.portal.run(host.client.aclose())


def test_a_reward_model_gives_no_reward_to_a_failed_episode(
    make_rollouts: Callable, server: RunningServer, tmp_path: Path
):
    rows, model = ScoredRows(), Always()
    assert own_reward(model, rows) is model
    rows.scored = [True, False, True]

    logits = model(torch.zeros(3, 2)).logits[:, 0]

    assert logits.isnan().tolist() == [False, True, False]
    rows.close()
    assert not model(torch.zeros(3, 2)).logits.isnan().any()


def test_one_broken_task_does_not_end_a_run_of_batches_of_one_group(
    make_rollouts: Callable, server: RunningServer, tmp_path: Path
):
    host = FailingHost(server, tasks={0})
    rollouts = make_rollouts(host=host, failures=ONCE, max_tasks=2)
    trainer = make_trainer(rollouts, tmp_path, per_device_train_batch_size=4, max_steps=4)
    batches: list[RolloutBatch] = []
    rollouts.listeners.append(batches.append)

    trainer.train()

    assert [all(member.failed for member in batch.trajectories) for batch in batches].count(True) == 2
    rollouts.portal.run(host.client.aclose())


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ([GAVE_UP, CUT_OFF], "no episode of the first batch was given a reward"),
        ([SOLVED], "the returns of every group of the first batch are equal"),
        ([SOLVED, GAVE_UP], None),
    ],
)
def test_a_first_batch_that_teaches_nothing_is_said(
    make_rollouts: Callable, server: RunningServer, tmp_path: Path, caplog: Any, ends: Any, words: str | None
):
    one_group(make_rollouts, server, tmp_path, *ends)

    said = [record.message for record in caplog.records if "first batch" in record.message]
    assert len(said) == (0 if words is None else 1)
    assert words is None or words in said[0]


def test_a_trainer_that_ignores_rollout_func_is_reported(make_rollouts: Callable, tmp_path: Path):
    rollouts = make_rollouts()

    with pytest.raises(RuntimeError, match="without calling rollout_func"):
        rollouts.reward_funcs[0](prompts=[], completions=[], completion_ids=[])


def test_fewer_tasks_than_a_batch_has_groups_are_refused_before_the_first_step(make_rollouts: Callable, tmp_path: Path):
    trainer = make_trainer(make_rollouts(tasks=[0]), tmp_path)

    with pytest.raises(ValueError, match=r"2 groups of 4 episodes.*there are 1 tasks"):
        trainer.train()


def test_tasks_that_every_epoch_leaves_out_are_said(make_rollouts: Callable, tmp_path: Path, caplog: Any):
    make_trainer(make_rollouts(tasks=[0, 1, 2]), tmp_path).get_train_dataloader()

    assert "1 of them" in caplog.text


def test_a_system_message_of_the_dataset_or_of_the_source_is_what_the_model_reads_first(
    make_rollouts: Callable, tmp_path: Path
):
    rollouts = make_rollouts(system="press it .")
    trainer = make_trainer(rollouts, tmp_path)
    plain = prompts_of(rollouts, [0] * 4)
    other = [[{"role": "system", "content": "look first ."}, *prompt] for prompt in prompts_of(rollouts, [1] * 4)]

    rows = rollouts.rollout_func([*plain, *other], trainer)

    texts = trainer.processing_class.batch_decode(rows["prompt_ids"])
    assert all("<|im_start|>system\npress it ." in text for text in texts[:4])
    assert all("<|im_start|>system\nlook first ." in text for text in texts[4:])
    with pytest.raises(ValueError, match="only a system message"):
        rollouts.rollout_func([[{"role": "user", "content": "hi"}, *plain[0]]] * 4, trainer)


def test_the_dataset_has_the_tasks_fields(make_rollouts: Callable):
    rollouts = make_rollouts(tasks=[3, 5])

    assert rollouts.train_dataset["id"] == ["train-3", "train-5"]
    assert set(rollouts.train_dataset["color"]) <= {"red", "green", "blue"}


def test_rewarded_weights_move(make_rollouts: Callable, server: RunningServer, tmp_path: Path):
    rollouts = make_rollouts(host=Ends(server, SOLVED, GAVE_UP), truncated_reward=None, stopped_reward=None)
    trainer = make_trainer(rollouts, tmp_path, max_steps=1)
    before = weights(trainer)

    trainer.train()

    assert not torch.equal(before, weights(trainer))
