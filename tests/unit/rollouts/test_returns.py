"""Returns and advantages: None and NaN never count as 0, and the arrays say what the papers say."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ors_gym.rollouts.returns import combine_scores, group_advantages, reduce_rewards, trajectory_return
from ors_gym.trajectory import Exchange, Failure, Reply, StopReason, TaskRef, Trajectory, Transition
from ors_gym.types import ToolCall, ToolOutput

numbers = st.floats(-1e3, 1e3).map(lambda x: round(x, 3))
groups = st.lists(st.none() | numbers, min_size=1, max_size=9)


def episode(*rewards, stop_reason=StopReason.FINISHED, failure=None):
    act = ToolCall("act")
    exchanges = tuple(Exchange(Reply(tool_calls=(act,)), (Transition(act, ToolOutput(reward=r)),)) for r in rewards)
    return Trajectory("e", TaskRef("env", "train", 0), stop_reason, (), exchanges, failure=failure)


def plain_advantages(returns):
    """The definitions, member by member."""
    given_returns = [value for value in returns if value is not None]
    advantages = []
    for index, value in enumerate(returns):
        others = [other for j, other in enumerate(returns) if j != index and other is not None]
        if value is None or not others or all(other == value for other in others):
            advantages.append(0.0)
        else:
            centred = value - statistics.fmean(given_returns)
            advantages.append(centred / (statistics.stdev(given_returns) + 1e-4))
    return advantages


@pytest.mark.parametrize(
    ("how", "expected"), [("sum", 4.0), ("last", 0.5), ("max", 3.0), ("min", 0.5), ("mean", 4.0 / 3)]
)
def test_named_reductions_skip_steps_without_a_reward(how, expected):
    assert reduce_rewards([None, 0.5, 3.0, None, 0.5, None], how) == pytest.approx(expected)


@pytest.mark.parametrize("how", ["sum", "last", "max", "min", "mean", statistics.median])
@pytest.mark.parametrize("rewards", [[], [None], [None, None]])
def test_an_unscored_episode_has_no_return(how, rewards):
    assert reduce_rewards(rewards, how) is None


def test_scored_zero_is_not_unscored():
    assert reduce_rewards([None, 0.0]) == 0.0


def test_a_function_reduces_the_rewards_that_were_given():
    assert reduce_rewards([1.0, None, 2.0, 9.0], statistics.median) == 2.0


def test_summing_tenths_is_exact():
    assert reduce_rewards([0.1] * 10) == 1.0


def test_an_unknown_reduction_is_refused_even_without_rewards():
    with pytest.raises(ValueError, match=r"'product'.*sum, last, max, min, mean"):
        reduce_rewards([], "product")


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
def test_rewards_that_are_no_numbers_are_refused(reward):
    with pytest.raises(ValueError, match="finite"):
        reduce_rewards([1.0, reward])


def test_a_failed_episode_has_no_return_despite_earlier_rewards():
    failed = episode(1.0, stop_reason=StopReason.FAILED, failure=Failure("session_lost", "gone"))
    assert trajectory_return(failed) is None
    assert trajectory_return(failed, truncated_reward=-1.0) is None


def test_a_truncated_episode_keeps_its_rewards_and_takes_the_price_of_truncation():
    truncated = episode(0.5, None, stop_reason=StopReason.MAX_TURNS)
    assert trajectory_return(truncated) == 0.5
    assert trajectory_return(truncated, truncated_reward=-1.0) == -0.5
    assert trajectory_return(truncated, "last", truncated_reward=0.0) == 0.0
    assert trajectory_return(episode(None, stop_reason=StopReason.MAX_TURNS), truncated_reward=0.0) == 0.0


ENDS = [reason for reason in StopReason if not reason.failed]


@pytest.mark.parametrize("reason", ENDS)
def test_an_episode_that_ended_without_any_reward_is_worth_zero_unless_it_is_left_out(reason):
    unrewarded = episode(None, None, stop_reason=reason)
    assert trajectory_return(unrewarded) == 0.0
    assert trajectory_return(unrewarded, unrewarded_return=-1.0) == -1.0
    assert trajectory_return(unrewarded, unrewarded_return=None) is None
    assert trajectory_return(episode(None, 0.5, stop_reason=reason), unrewarded_return=-1.0) == 0.5


def test_giving_up_next_to_success_has_an_advantage():
    solved, gave_up = episode(1.0), episode(None, stop_reason=StopReason.POLICY_STOPPED)
    cut_off = episode(stop_reason=StopReason.MAX_TOKENS)
    advantages = group_advantages([trajectory_return(member) for member in (solved, solved, gave_up, cut_off)])
    assert advantages == pytest.approx([0.866, 0.866, -0.866, -0.866], abs=1e-3)


def test_the_price_of_truncation_is_not_paid_by_episodes_that_ended_themselves():
    assert trajectory_return(episode(0.5), truncated_reward=-1.0) == 0.5


@given(returns=groups)
def test_advantages_equal_the_plain_definition(returns):
    values = np.array([np.nan if value is None else value for value in returns])
    np.testing.assert_allclose(group_advantages(values), plain_advantages(returns), rtol=1e-6, atol=1e-6)


@given(returns=groups)
def test_a_member_without_a_return_changes_nothing_for_the_others(returns):
    values = np.array([np.nan if value is None else value for value in returns])
    valid = ~np.isnan(values)
    np.testing.assert_allclose(group_advantages(values)[valid], group_advantages(values[valid]), rtol=1e-9, atol=1e-9)


@given(returns=groups)
def test_advantages_of_a_group_sum_to_zero_and_failures_get_none(returns):
    values = np.array([np.nan if value is None else value for value in returns])
    advantages = group_advantages(values)
    assert np.isfinite(advantages).all()
    assert (advantages[np.isnan(values)] == 0).all()
    assert abs(advantages.sum()) < 1e-6 * max(1, np.nanmax(np.abs(values), initial=1))


@given(value=numbers, size=st.integers(1, 9))
def test_a_group_that_agrees_teaches_exactly_nothing(value, size):
    assert not group_advantages([value] * size).any()


def test_groups_are_rows_of_any_number_of_axes():
    rows = np.array([[1.0, 0.0, np.nan], [3.0, 1.0, 2.0]])
    stacked = group_advantages(rows.reshape(2, 1, 3))
    assert stacked.shape == (2, 1, 3)
    for row, advantages in zip(rows, stacked[:, 0], strict=True):
        np.testing.assert_array_equal(group_advantages(row), advantages)


def test_none_stands_for_a_missing_return_too():
    np.testing.assert_array_equal(group_advantages([1.0, None, 0.0]), group_advantages([1.0, math.nan, 0.0]))


def test_a_group_of_failures_and_an_empty_group_teach_nothing():
    np.testing.assert_array_equal(group_advantages([np.nan, np.nan]), [0.0, 0.0])
    assert group_advantages([]).shape == (0,)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="finite"):
        group_advantages([1.0, math.inf])
    with pytest.raises(ValueError, match="last axis"):
        group_advantages(1.0)


def test_a_groups_scores_count_as_one_more_reward_each():
    returns, scores = [1.0, None, 0.5], [0.25, 3.0, -1.0]
    assert combine_scores(returns, scores) == (1.25, 3.0, -0.5)
    assert combine_scores(returns, scores, "last") == (0.25, 3.0, -1.0)
    assert combine_scores(returns, scores, "mean") == (0.625, 3.0, -0.25)
    assert combine_scores(returns, scores, lambda rewards: rewards[-1] * 10) == (2.5, 30.0, -10.0)


def test_an_unscored_member_has_no_return_among_scored_members():
    assert combine_scores([1.0, None], [0.5, None]) == (1.5, None)
    assert combine_scores([1.0, 2.0], [0.5, None], "max") == (1.0, None)


def test_a_group_without_scores_keeps_its_returns():
    assert combine_scores([1.0, None], None, "last") == (1.0, None)
    assert combine_scores([1.0, None], (None, None), "last") == (1.0, None)
    with pytest.raises(ValueError, match="shorter"):
        combine_scores([1.0, 2.0], [1.0])
