"""Groups whose returns are all equal teach nothing: another task's group may be played in their place."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openreward.environments import Environment, Split, TextBlock, ToolOutput, tool

from ors_gym import TaskRef, ToolCall
from ors_gym_trl import ORSRollouts
from ors_gym_trl.rows import Replacements
from tests.support.chat_templates import QWEN, byte_tokenizer
from tests.support.ors_servers import RunningServer, serve
from tests.support.trl_runs import closed_rollouts, make_trainer, one_thread, play
from tests.support.trl_says import Says

__all__ = ["one_thread", "play"]  # fixtures

FLIPS = itertools.count()


class Coin(Environment):
    """Pays 1.0 in the first four tasks, and every second time in the fifth."""

    @classmethod
    def list_splits(cls):
        return [Split(name="train", type="train")]

    @classmethod
    def list_tasks(cls, split):
        return [{"n": n} for n in range(5)]

    def get_prompt(self):
        return [TextBlock(text="Flip.")]

    @tool
    def flip(self) -> ToolOutput:
        """Flip it."""
        reward = 1.0 if self.task_spec["n"] < 4 else float(next(FLIPS) % 2)
        return ToolOutput(blocks=[TextBlock(text="flipped")], reward=reward, finished=True)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serve(Coin) as running:
        yield running


@pytest.fixture
def of(server: RunningServer) -> Iterator[Callable[..., ORSRollouts]]:
    def make(**options: Any) -> ORSRollouts:
        options = {"env_name": "coin", "max_turn_tokens": 1, "parser": Says(ToolCall("flip"))} | options
        return rollouts_of(**options)

    with closed_rollouts(server) as rollouts_of:
        yield make


def start(rollouts: ORSRollouts, folder: Path, **options: Any) -> Any:
    """A trainer of one group of four a batch, with a model that says one token."""
    room = {"tokenizer": byte_tokenizer(QWEN), "max_positions": 8192, "max_completion_length": 4096}
    trainer = make_trainer(rollouts, folder, per_device_train_batch_size=4, **room, **options)
    trainer.generation_config.eos_token_id = list(range(len(trainer.processing_class)))
    return trainer


def test_a_group_without_signal_is_replaced_by_one_that_has_it_and_the_share_is_logged(of: Callable, play: Callable):
    rollouts = of(equal_groups="replace", max_replacements=4)

    columns, batch = play(rollouts, 0, 4)

    assert [group.task.index for group in batch.groups] == [4, 4]
    assert [group.refilled_for is None for group in batch.groups] == [False, True]
    assert sorted(columns["ors_return"]) == [0.0] * 4 + [1.0] * 4
    assert not any(group.dropped for group in batch.replaced_groups)
    tried = [group.task.index for group in batch.replaced_groups]
    assert tried[0] == 0
    assert len(set(tried)) == len(tried) <= 4
    assert rollouts._metrics["rollout/replaced_equal_groups"] == len(tried) / (len(tried) + 2)
    assert rollouts._metrics["rollout/zero_variance_groups"] == 0.0


def test_replacing_ends_at_its_limit_and_trains_on_the_last_group(of: Callable, play: Callable):
    rollouts = of(equal_groups="replace", max_replacements=2, tasks=[0, 1, 2, 3])

    columns, batch = play(rollouts, 1)

    assert len(batch.replaced_groups) == 2
    assert columns["ors_return"] == [1.0] * 4
    assert len({group.task for group in (*batch.groups, *batch.replaced_groups)}) == 3


def test_equal_groups_are_kept_by_default_and_where_there_is_no_other_task(of: Callable, play: Callable):
    for rollouts in (of(), of(equal_groups="replace", tasks=[0])):
        _, batch = play(rollouts, 0)

        assert [group.task.index for group in batch.groups] == [0]
        assert not batch.replaced_groups


def test_an_evaluation_is_of_the_tasks_it_names(of: Callable, tmp_path: Path):
    rollouts = of(equal_groups="replace", eval_split="train")
    batches: list[Any] = []
    rollouts.listeners.append(batches.append)
    trainer = make_trainer(rollouts, tmp_path, per_device_eval_batch_size=4)

    trainer.evaluate(rollouts.eval_dataset.select([0]))

    assert batches
    assert not any(batch.replaced_groups or batch.training for batch in batches)


def test_reward_functions_get_the_fields_of_the_task_that_was_played(of: Callable, tmp_path: Path):
    rollouts = of(equal_groups="replace", max_replacements=4)
    got: list[tuple[Any, ...]] = []

    def watch(n: list[int], hint: list[str], ors_trajectory: list[Any], **columns: Any) -> list[float]:
        got.extend((one.task.index, number, said) for one, number, said in zip(ors_trajectory, n, hint, strict=True))
        assert "ors_fields" not in columns
        return [0.0] * len(n)

    of_the_user = rollouts.train_dataset.map(lambda row: {"hint": f"hint {row['n']}"}).select([0, 1, 4])

    start(rollouts, tmp_path, dataset=of_the_user, reward_funcs=[*rollouts.reward_funcs, watch], max_steps=1).train()

    assert got == [(4, 4, "hint 4")] * 4  # whatever the rows were, and never a task that is not in the user's data set


def test_history_puts_what_taught_first_then_what_was_not_played_and_counts_from_the_next_batch():
    tasks = [TaskRef("coin", "train", index) for index in range(6)]
    replacements = Replacements(tasks, "history")

    def order() -> list[int | None]:
        drawn = [task.index for task in replacements.instead_of(tasks[0], seed=7)]
        assert drawn == [task.index for task in replacements.instead_of(tasks[0], seed=7)]
        return drawn

    shuffled = [task.index for task in Replacements(tasks, "shuffled").instead_of(tasks[0], seed=7)]
    assert order() == shuffled
    for task, taught in ((1, False), (2, True), (4, True), (4, False)):
        replacements.saw(tasks[task], taught)
    assert order() == shuffled
    replacements.begin_batch()

    drawn = order()
    assert (set(drawn[:2]), set(drawn[2:4]), drawn[4:]) == ({2, 4}, {3, 5}, [1])
    replacements.saw(tasks[2], False)
    replacements.begin_batch()
    assert order()[0] == 4  # the latest group counts


def test_with_a_history_a_task_that_taught_is_the_first_to_replace_another(of: Callable, tmp_path: Path):
    rollouts = of(equal_groups="replace", max_replacements=4, replacement_order="history")
    batches: list[Any] = []
    rollouts.listeners.append(batches.append)

    start(rollouts, tmp_path, max_steps=4, num_iterations=1).train()

    replaced = [len(batch.replaced_groups) for batch in batches]
    assert [group.task.index for batch in batches for group in batch.groups] == [4] * 4
    assert max(replaced[1:]) == 1  # only the row's own group


@pytest.mark.parametrize("wrong", [{"equal_groups": "drop"}, {"max_replacements": 0}, {"replacement_order": "history"}])
def test_settings_that_mean_nothing_are_refused(of: Callable, wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        of(**wrong)
