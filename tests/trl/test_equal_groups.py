"""Groups whose returns are all equal teach nothing: another task's group may be played in their place."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openreward.environments import Environment, Split, TextBlock, ToolOutput, tool

from ors_gym import ToolCall
from ors_gym_trl import ORSRollouts
from tests.support.ors_servers import RunningServer, serve
from tests.support.trl_runs import make_trainer, one_thread, play
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
    made: list[ORSRollouts] = []

    def make(**options: Any) -> ORSRollouts:
        options = {"env_name": "coin", "max_turn_tokens": 1, "parser": Says(ToolCall("flip"))} | options
        made.append(ORSRollouts(server.url, **options))
        return made[-1]

    yield make
    for rollouts in made:
        rollouts.close()
    assert not server.live_sessions


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


@pytest.mark.parametrize("wrong", [{"equal_groups": "drop"}, {"max_replacements": 0}])
def test_settings_that_mean_nothing_are_refused(of: Callable, wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        of(**wrong)
