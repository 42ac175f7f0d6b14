"""What becomes of groups: failures, refills and scores, on the reference server."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import pytest
from openreward.environments.types import GroupScore

from ors_gym import (
    EpisodeRunner,
    FailurePolicy,
    ORSClient,
    Reply,
    ScriptedPolicy,
    TaskRef,
    ToolCall,
    TrajectoryGroup,
    Turn,
    run_group,
    run_groups,
    trajectory_return,
)
from ors_gym.errors import NotFoundError, RunFailedError
from ors_gym.rollouts import combine_scores
from tests.support.environments import Counter
from tests.support.ors_servers import RunningServer

ADD, CRASH, LOOK = ToolCall("add", {"amount": 1}), ToolCall("crash"), ToolCall("look")
TASKS = [TaskRef("counter", "train", index) for index in range(5)]


class BreaksTasks:
    """Crashes every episode of these tasks, and counts in all others."""

    def __init__(self, *indices: int) -> None:
        self.indices = indices

    async def act(self, turn: Turn) -> Reply:
        return Reply(tool_calls=(CRASH if turn.task.index in self.indices else ADD,))


async def play_groups(
    server: RunningServer, policy: object, tasks: Iterable[TaskRef] = TASKS, size: int = 2, **options: Any
) -> list[TrajectoryGroup]:
    async with ORSClient(server.url) as client:
        return [
            group
            async for group in run_groups(EpisodeRunner(client, policy, tool_errors="fail"), tasks, size, **options)
        ]


async def play_one(server: RunningServer, policy: object, size: int, task: TaskRef = TASKS[2], **options: Any):
    async with ORSClient(server.url) as client:
        return await run_group(EpisodeRunner(client, policy, tool_errors="fail"), task, size, **options)


def failing(**options: Any) -> FailurePolicy:
    return FailurePolicy(**({"retries": 0, "retry_delay_seconds": 0} | options))


class CrashesFirst:
    """Breaks the first episodes it plays, then plays well."""

    def __init__(self, failures: int) -> None:
        self.left = failures

    async def act(self, turn: Turn) -> Reply:
        if turn.number == 0 and self.left:
            self.left -= 1
            return Reply(tool_calls=(CRASH,))
        return Reply(tool_calls=(ADD,))


@pytest.mark.parametrize(
    ("failures", "dropped"),
    [
        (failing(incomplete="keep"), False),
        (failing(incomplete="keep", min_valid_members=3), True),
        (failing(incomplete="drop"), True),
        (failing(incomplete="drop", retries=1), False),
        (failing(incomplete="refill"), True),
    ],
)
def test_an_incomplete_group_is_kept_or_dropped_as_the_policy_says(
    counter_server: RunningServer, run: Callable, failures: FailurePolicy, dropped: bool
):
    group = run(play_one(counter_server, CrashesFirst(1), 3, failures=failures))

    assert group.dropped is dropped
    assert group.num_valid == 2 + failures.retries
    assert group.attempts == 3 + failures.retries
    assert len(group.failures) == 1
    assert not counter_server.live_sessions


def test_a_dropped_groups_place_goes_to_the_next_task_and_both_are_reported(
    counter_server: RunningServer, run: Callable
):
    policy = failing(incomplete="refill", retries=1)
    groups = run(play_groups(counter_server, BreaksTasks(1), num_groups=3, failures=policy))

    by_task = {group.task.index: group for group in groups}
    assert sorted(by_task) == [0, 1, 2, 3]
    assert [index for index, group in by_task.items() if group.dropped] == [1]
    assert by_task[1].attempts == 4
    assert by_task[3].refilled_for == TASKS[1]
    assert all(group.refilled_for is None for index, group in by_task.items() if index != 3)


def test_refilling_ends_at_its_limit_and_where_there_are_no_more_tasks(counter_server: RunningServer, run: Callable):
    def play(tasks: list[TaskRef], refills: int) -> list[TrajectoryGroup]:
        failures = failing(incomplete="refill", refills=refills)
        options = {"num_groups": 1, "failures": failures, "max_failed_groups": None}
        return run(play_groups(counter_server, BreaksTasks(*range(5)), tasks, **options))

    limited, exhausted = play(TASKS, 3), play(TASKS[:2], 9)

    assert [group.task.index for group in limited] == [0, 1, 2, 3]
    assert [group.refilled_for for group in limited] == [None, *TASKS[:3]]
    assert [group.task.index for group in exhausted] == [0, 1]


def test_refills_wait_until_every_requested_group_has_started(counter_server: RunningServer, run: Callable):
    groups = run(
        play_groups(
            counter_server,
            BreaksTasks(0, 1),
            TASKS[:4],
            num_groups=3,
            max_concurrent_groups=1,
            failures=failing(incomplete="refill"),
        )
    )

    assert [group.task.index for group in groups] == [0, 1, 2, 3]
    assert [group.refilled_for for group in groups] == [None, None, None, TASKS[0]]


def test_without_a_number_of_groups_every_task_is_played_once_and_none_is_drawn_twice(
    counter_server: RunningServer, run: Callable
):
    groups = run(play_groups(counter_server, BreaksTasks(0, 1), failures=failing(incomplete="refill")))

    assert sorted(group.task.index for group in groups) == [0, 1, 2, 3, 4]


def test_so_many_groups_are_taken_of_an_endless_stream(counter_server: RunningServer, run: Callable):
    def endless():
        while True:
            yield TASKS[0]

    groups = run(play_groups(counter_server, ScriptedPolicy([ADD]), endless(), num_groups=7, max_concurrent_groups=2))

    assert len(groups) == 7


def test_no_groups_at_once_is_a_mistake_and_not_an_empty_run(counter_server: RunningServer, run: Callable):
    with pytest.raises(ValueError, match="max_concurrent_groups must be at least 1"):
        run(play_groups(counter_server, ScriptedPolicy([ADD]), max_concurrent_groups=0))


@pytest.mark.parametrize(("num_tasks", "words"), [(9, "3 groups in a row failed"), (2, "of the run failed")])
def test_an_environment_that_is_not_there_ends_the_run_with_the_reason(
    counter_server: RunningServer, run: Callable, num_tasks: int, words: str
):
    groups = []

    async def conversation() -> None:
        async with ORSClient(counter_server.url) as client:
            runner = EpisodeRunner(client, ScriptedPolicy([ADD]))
            tasks = [TaskRef("cuonter", "train", index) for index in range(num_tasks)]
            async for group in run_groups(runner, tasks, 2, failures=failing(), max_failed_groups=3):
                groups.append(group)

    with pytest.raises(RunFailedError, match=rf"{words}. Last: not_found: .*list_environments"):
        run(conversation())

    assert len(groups) == min(num_tasks, 3)


def test_groups_that_fail_now_and_then_end_no_run(counter_server: RunningServer, run: Callable):
    tasks = TASKS[:3] * 3  # two that fail, and one that does not
    options = {"failures": failing(), "max_failed_groups": 3, "max_concurrent_groups": 1}

    groups = run(play_groups(counter_server, BreaksTasks(0, 1), tasks, **options))

    assert [group.num_valid for group in groups] == [0, 0, 2] * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [({"refills": -1}, "refills"), ({"incomplete": "ignore"}, "'keep'")],
)
def test_a_failure_policy_that_makes_no_sense_is_refused(options: dict, words: str):
    with pytest.raises(ValueError, match=words):
        FailurePolicy(**options)


class Judged(Counter):
    """Counts, and scores a group by how often each member looked; breaks down as often as it is told."""

    breakdowns: ClassVar[int] = 0
    asked: ClassVar[collections.Counter[str]] = collections.Counter()

    async def score_group(self, candidates):
        type(self).asked["times"] += 1
        if type(self).asked["times"] <= type(self).breakdowns:
            raise RuntimeError("the judge is out")
        looks = [
            sum(getattr(block, "name", "") == "look" for message in candidate.messages for block in message.blocks)
            for candidate in candidates
        ]
        assert all(candidate.messages[0].role == "assistant" for candidate in candidates)
        return [GroupScore(reward=float(number)) for number in looks]


class LooksAround:
    """The n-th episode looks n times before it counts; number ``broken`` crashes instead."""

    def __init__(self, broken: int = -1) -> None:
        self.broken = broken
        self.numbers: dict[str, int] = {}

    async def act(self, turn: Turn) -> Reply:
        number = self.numbers.setdefault(turn.episode_id, len(self.numbers))
        if number == self.broken:
            return Reply(tool_calls=(CRASH,))
        return Reply(tool_calls=(LOOK if turn.number < number else ADD,))


@pytest.fixture
def judged(start_server: Callable) -> tuple[RunningServer, type[Judged]]:
    class Fresh(Judged):
        asked: ClassVar[collections.Counter[str]] = collections.Counter()

    return start_server(Fresh), Fresh


FRESH = TaskRef("fresh", "train", 0)


def looks_of(group: TrajectoryGroup) -> list[float]:
    return [float(sum(t.action.name == "look" for t in member.transitions)) for member in group.members]


@pytest.mark.parametrize("asked", [True, None])
def test_the_environment_scores_a_group_in_addition_to_rewards(judged, run: Callable, asked: bool | None):
    server, _ = judged
    group = run(play_one(server, LooksAround(), 3, FRESH, score_group=asked))

    assert group.scores == tuple(looks_of(group))
    assert sorted(group.scores) == [0.0, 1.0, 2.0]
    returns = [trajectory_return(member) for member in group.members]
    assert returns == [1.0, 1.0, 1.0]
    assert sorted(combine_scores(returns, group.scores)) == [1.0, 2.0, 3.0]
    assert not server.live_sessions


def test_scores_are_only_requested_if_wanted(judged, run: Callable):
    server, environment = judged
    group = run(play_one(server, LooksAround(), 2, FRESH))

    assert group.scores is None
    assert not environment.asked


def test_a_failed_member_is_not_scored_and_a_dropped_group_not_at_all(judged, run: Callable):
    server, environment = judged
    group = run(play_one(server, LooksAround(broken=1), 3, FRESH, failures=failing(), score_group=True))

    assert [score is None for score in group.scores] == [member.failed for member in group.members]
    environment.asked.clear()
    dropped = run(
        play_one(server, LooksAround(broken=1), 3, FRESH, failures=failing(incomplete="drop"), score_group=True)
    )
    assert dropped.scores is None
    assert not environment.asked


def test_failed_scoring_is_retried_and_counted(judged, run: Callable):
    server, environment = judged
    environment.breakdowns = 1
    group = run(play_one(server, LooksAround(), 2, FRESH, failures=failing(retries=1), score_group=True))

    assert group.scores == tuple(looks_of(group))
    assert [failure.kind for failure in group.failures] == ["tool_failed"]
    assert "the judge is out" in group.failures[0].message


def test_scoring_that_fails_for_good_leaves_no_score(judged, run: Callable):
    server, environment = judged
    environment.breakdowns = 99
    group = run(play_one(server, LooksAround(), 2, FRESH, failures=failing(retries=1), score_group=True))

    assert group.scores == (None, None)
    assert len(group.failures) == 2
    assert not group.dropped
    assert not server.live_sessions


def test_trajectories_that_cannot_be_sent_are_not_scored_and_end_no_run(judged, run: Callable):
    class Mumbles:
        async def act(self, turn: Turn) -> Reply:
            return Reply(text="half \ud83d of it", tool_calls=(ADD,))

    server, _ = judged
    group = run(play_one(server, Mumbles(), 2, FRESH, failures=failing(), score_group=True))

    assert group.scores == (None, None)
    assert "cannot be sent" in group.failures[0].message
    assert not server.live_sessions


def test_an_environment_that_does_not_score_is_left_in_peace_or_an_error_as_one_asks(
    counter_server: RunningServer, run: Callable
):
    group = run(play_one(counter_server, ScriptedPolicy([ADD] * 3), 2, score_group=None))
    assert group.scores is None
    with pytest.raises(NotFoundError, match="does not score groups"):
        run(play_one(counter_server, ScriptedPolicy([ADD] * 3), 2, score_group=True))
