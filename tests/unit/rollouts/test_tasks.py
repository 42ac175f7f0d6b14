"""Which task next."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ors_gym.rollouts.tasks import TaskSampler, remaining_tasks
from ors_gym.trajectory import TaskRef


def tasks(count):
    return [TaskRef("env", "train", index) for index in range(count)]


def indices(sampler, count=None):
    return [task.index for task in islice(sampler, count)]


def test_sequential_order_starts_again_each_epoch():
    assert indices(TaskSampler(tasks(3), order="sequential", epochs=2)) == [0, 1, 2, 0, 1, 2]


def test_a_group_is_one_task_in_a_row():
    assert indices(TaskSampler(tasks(2), order="sequential", epochs=1, group_size=3)) == [0, 0, 0, 1, 1, 1]


@given(count=st.integers(1, 12), epochs=st.integers(1, 3), group_size=st.integers(1, 3), seed=st.integers(0, 2**40))
def test_each_shuffled_epoch_has_each_task_once_for_each_member(count, epochs, group_size, seed):
    drawn = indices(TaskSampler(tasks(count), seed=seed, epochs=epochs, group_size=group_size))
    groups = [drawn[start : start + group_size] for start in range(0, len(drawn), group_size)]
    assert all(len(set(group)) == 1 for group in groups)
    for epoch in range(epochs):
        assert sorted(group[0] for group in groups[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert len(groups) == epochs * count


def test_epochs_are_shuffled_differently_and_seeds_are_repeatable():
    drawn = indices(TaskSampler(tasks(50), seed=1), 100)
    assert drawn[:50] != drawn[50:]
    assert drawn == indices(TaskSampler(tasks(50), seed=1), 100)
    assert drawn != indices(TaskSampler(tasks(50), seed=2), 100)


def test_a_sampler_ends_with_its_last_epoch():
    assert [task.index for task in TaskSampler(tasks(3), order="sequential", epochs=1)] == [0, 1, 2]


@pytest.mark.parametrize("wrong", [{"order": "random"}, {"epochs": 0}, {"group_size": 0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="|".join(wrong)):
        TaskSampler(tasks(1), **wrong)
    with pytest.raises(ValueError, match="no tasks"):
        TaskSampler([])


def test_what_is_finished_is_left_out_as_often_as_it_is():
    one, two, three = (TaskRef("env", "train", index) for index in range(3))
    finished = {one: 1, three: 2}

    assert list(remaining_tasks([one, two, three, one, two, three], finished)) == [two, one, two]
    endless = remaining_tasks(TaskSampler([one, two], order="sequential"), finished)
    assert [next(endless) for _ in range(3)] == [two, one, two]
    assert finished == {one: 1, three: 2}
