"""A run summed up: every mean with what it is the mean of."""

from ors_gym.rollouts.summary import Summary
from ors_gym.trajectory import Exchange, Failure, Reply, StopReason, TaskRef, Trajectory, TrajectoryGroup, Transition
from ors_gym.types import ToolCall, ToolOutput

BROKEN = Failure("connection", "lost")


def episode(*rewards, failed=False, ok=True, tokens=None):
    act = ToolCall("act")
    exchanges = tuple(
        Exchange(Reply(tool_calls=(act,), num_tokens=tokens), (Transition(act, ToolOutput(reward=r, ok=ok), 0.5),))
        for r in rewards
    )
    reason = StopReason.FAILED if failed else StopReason.FINISHED
    return Trajectory("e", TaskRef("env", "train", 0), reason, (), exchanges, BROKEN if failed else None, 2.0)


def group(*members, **options):
    return TrajectoryGroup(TaskRef("env", "train", 0), members, **options)


def test_two_of_ten_solved_is_a_mean_of_a_fifth_and_not_of_one():
    summary = Summary.of([group(episode(1.0))] * 2 + [group(episode(None, None))] * 8)
    assert (summary.mean_return, summary.scored, summary.unrewarded) == (0.2, 10, 8)
    assert summary.outcomes() == "10 of 10 episodes scored, 8 without a reward, 0 failed"


def test_failed_episodes_are_in_no_mean():
    summary = Summary.of([group(episode(1.0), episode(9.0, 9.0, 9.0, failed=True), failures=(BROKEN, BROKEN))])
    assert (summary.mean_return, summary.mean_turns, summary.mean_calls) == (1.0, 1.0, 1.0)
    assert (summary.episodes, summary.scored, summary.failed) == (2, 1, 1)
    assert summary.failures == {"connection": 2}
    assert summary.stop_reasons == {"finished": 1, "failed": 1}
    assert summary.outcomes() == "1 of 2 episodes scored, 1 failed"


def test_a_mean_of_nothing_is_none():
    summary = Summary.of([])
    assert (summary.mean_return, summary.return_std, summary.mean_turns, summary.tokens) == (None, None, None, None)
    assert summary.outcomes() == "0 of 0 episodes scored, 0 failed"


def test_groups_that_teach_nothing_are_counted_among_those_that_can_be_compared():
    equal, different, alone = group(episode(1.0), episode(1.0)), group(episode(1.0), episode(0.0)), group(episode(1.0))
    summary = Summary.of([equal, different, alone])
    assert (summary.equal_groups, summary.compared_groups) == (1, 2)


def test_refused_calls_tokens_and_seconds_are_summed_up():
    summary = Summary.of([group(episode(0.0, 0.0, ok=False, tokens=5), episode(1.0))])
    assert (summary.mean_refused_calls, summary.tokens) == (1.0, 10)
    assert (summary.mean_seconds, summary.mean_tool_seconds) == (2.0, 0.75)


def test_the_callers_score_says_what_a_return_is():
    summary = Summary.of([group(episode(1.0), episode(None))], lambda member: member.rewards[0])
    assert (summary.mean_return, summary.scored) == (1.0, 1)
