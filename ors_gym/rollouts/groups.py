"""Groups of episodes, run concurrently, with a policy for failures.

Groups are played on any :class:`~ors_gym.rollouts.EpisodeHost`, without barriers: a slow episode delays only its own
group.

What happens on infrastructure failure, in this order (:class:`FailurePolicy`):

1. The episode is played again on a new session, up to ``retries`` times, each time after a longer wait.
2. A group that is still incomplete is kept if ``min_valid_members`` are valid (``incomplete="keep"``), dropped
   (``"drop"``), or dropped and replaced by another task's group (``"refill"``).

Every failed attempt is in ``TrajectoryGroup.failures``, and dropped groups are returned too. A run ends with an error
when every episode of many consecutive groups, or of the whole run, failed.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from ors_gym.client.arguments import check_number
from ors_gym.errors import NotFoundError, ORSError, RunFailedError
from ors_gym.policies.policy import Policy
from ors_gym.rollouts.episode import EpisodeHost, EpisodeRunner, RolloutLimits
from ors_gym.rollouts.exchange import run_all
from ors_gym.rollouts.seeds import derive_seed
from ors_gym.trajectory import Failure, TaskRef, Trajectory, TrajectoryGroup
from ors_gym.types import GroupCandidate

__all__ = ["EpisodeHost", "EpisodeRunner", "FailurePolicy", "GroupRun", "RolloutLimits", "run_group", "run_groups"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """The handling of a group with failed episodes."""

    retries: int = 2
    """Maximum retries of a failed member, each on a new session."""
    min_valid_members: int = 2
    """Under ``"keep"``, a group with fewer valid members is dropped, as GRPO compares at least two. Limited by the
    group's size."""
    retry_delay_seconds: float = 0.5
    """Delay before the first retry, doubled with each further one, so that a server has time to restart."""
    incomplete: Literal["keep", "drop", "refill"] = "keep"
    """For a group with a member that failed on every attempt: keep it if enough are valid, drop it, or drop it and play
    another task's group instead (:func:`run_groups` with ``num_groups``; otherwise the same as ``"drop"``)."""
    refills: int = 2
    """Maximum replacements of one dropped group."""

    def __post_init__(self) -> None:
        for name in ("retries", "min_valid_members", "refills"):
            check_number(name, getattr(self, name), none=False, whole=True)
        check_number("retry_delay_seconds", self.retry_delay_seconds, none=False)
        if self.retries < 0 or self.min_valid_members < 1 or self.retry_delay_seconds < 0:
            raise ValueError("retries and retry_delay_seconds must be at least 0, min_valid_members at least 1")
        if self.refills < 0:
            raise ValueError("refills must be at least 0")
        if self.incomplete not in ("keep", "drop", "refill"):
            raise ValueError(f"incomplete must be 'keep', 'drop' or 'refill', not {self.incomplete!r}")

    def drops(self, num_valid: int, group_size: int) -> bool:
        """Whether a group with this number of valid members is dropped."""
        needed = min(self.min_valid_members, group_size) if self.incomplete == "keep" else group_size
        return num_valid < needed

    def delay_seconds(self, attempt: int) -> float:
        """The delay after the failure of attempt number ``attempt``, from 0."""
        return self.retry_delay_seconds * 2.0**attempt


async def run_group(
    host: EpisodeHost,
    task: TaskRef,
    group_size: int,
    *,
    policy: Policy | None = None,
    failures: FailurePolicy | None = None,
    score_group: bool | None = False,
    seed: int | None = None,
) -> TrajectoryGroup:
    """Play ``group_size`` episodes of one task at once; a failed member is played again on a fresh session.

    Member i stays at index i. ``seed`` seeds the policy's draws, differently for each member and attempt and equally in
    every run.

    With ``score_group`` the environment scores the members against each other after the last has ended: ``True``
    requires it (NotFoundError if the environment cannot), ``None`` uses it where available. Failed members and members
    of a dropped group are not scored. Failed scoring is retried like an episode; in the end all scores are None.
    """
    if group_size < 1:
        raise ValueError("group_size must be at least 1")
    failure_policy = failures or FailurePolicy()
    group = await _Group(host, task, group_size, policy, failure_policy, seed).play()
    if score_group is False or group.dropped:
        return group
    return await _scored(host, group, failure_policy, required=score_group is True)


class _Group:
    """One group in progress."""

    def __init__(
        self,
        host: EpisodeHost,
        task: TaskRef,
        size: int,
        policy: Policy | None,
        failure_policy: FailurePolicy,
        seed: int | None,
    ) -> None:
        self.host = host
        self.task = task
        self.size = size
        self.policy = policy
        self.failure_policy = failure_policy
        self.seed = seed
        self.failures: list[Failure] = []
        self.attempts = 0

    async def play(self) -> TrajectoryGroup:
        # An exception, raised by the policy, ends the group.
        members = await run_all(self._member(place) for place in range(self.size))
        return TrajectoryGroup(
            self.task,
            tuple(members),
            tuple(self.failures),
            dropped=self.failure_policy.drops(sum(not member.failed for member in members), self.size),
            attempts=self.attempts,
        )

    async def _member(self, place: int) -> Trajectory:
        attempt = 0
        while True:
            self.attempts += 1
            seed = derive_seed(self.seed, place, attempt)
            trajectory = await self.host.run_episode(self.task, policy=self.policy, attempt=attempt, seed=seed)
            if trajectory.failure is None:
                return trajectory
            self.failures.append(trajectory.failure)
            if attempt >= self.failure_policy.retries:
                return trajectory
            await asyncio.sleep(self.failure_policy.delay_seconds(attempt))
            attempt += 1


async def _scored(
    host: EpisodeHost, group: TrajectoryGroup, failure_policy: FailurePolicy, *, required: bool
) -> TrajectoryGroup:
    """Add the environment's scores of the valid members."""
    valid = [place for place, member in enumerate(group.members) if not member.failed]
    candidates = [GroupCandidate(group.members[place].completion) for place in valid]
    failures = list(group.failures)
    scores: list[float | None] = [None] * len(group.members)
    for attempt in itertools.count():
        try:
            rewards = await host.score_group(group.task, candidates)
        except NotFoundError:
            if required:
                raise
            return group
        except ORSError as error:
            failures.append(Failure(error.kind, f"score_group: {error}"))
            if attempt >= failure_policy.retries:
                break
            await asyncio.sleep(failure_policy.delay_seconds(attempt))
        else:
            for place, score in zip(valid, rewards, strict=True):
                scores[place] = score.reward
            break
    return replace(group, scores=tuple(scores), failures=tuple(failures))


def run_groups(
    host: EpisodeHost,
    tasks: Iterable[TaskRef],
    group_size: int,
    *,
    num_groups: int | None = None,
    policy: Policy | None = None,
    failures: FailurePolicy | None = None,
    score_group: bool | None = False,
    seed: int | None = None,
    max_concurrent_groups: int = 64,
    max_failed_groups: int | None = 16,
) -> GroupRun:
    """Play a group of each task; iterate over the groups as they complete, dropped ones too.

    At most ``max_concurrent_groups`` run at once, so ``tasks`` may be infinite; ``num_groups`` takes its first ones.
    Under ``FailurePolicy(incomplete="refill")`` a dropped group's place is then given to the next task
    after those, up to ``refills`` times, and ``TrajectoryGroup.refilled_for`` records it. No refill starts before the
    first ``num_groups`` tasks have started. With a ``seed`` the policy draws the same for the n-th group of a task in
    every run, independent of the order in which groups end.

    A group in which every episode failed says nothing about the policy: the server may be gone, or have no such
    environment. ``max_failed_groups`` of them in a row, as they complete, end the run with an error, and so does a run
    of only such groups; with None it never ends early.

    Raises:
        ValueError: A limit is below 1.
        RunFailedError: While iterating: every episode of ``max_failed_groups`` groups in a row, or of the whole run,
            failed.
    """
    if max_concurrent_groups < 1:
        raise ValueError("max_concurrent_groups must be at least 1")
    if max_failed_groups is not None and max_failed_groups < 1:
        raise ValueError("max_failed_groups must be at least 1, or None for no limit")

    def play(task: TaskRef, group_seed: int | None) -> Coroutine[Any, Any, TrajectoryGroup]:
        return run_group(
            host, task, group_size, policy=policy, failures=failures, score_group=score_group, seed=group_seed
        )

    refills = failures.refills if failures and failures.incomplete == "refill" and num_groups is not None else 0
    return GroupRun(play, tasks, num_groups, seed, refills, max_concurrent_groups, max_failed_groups)


class GroupRun(AsyncIterator[TrajectoryGroup]):
    """The groups of a run, as they complete; made by :func:`run_groups`.

    Waiting for the next group may be cancelled or time out: the groups continue, and the next call waits for them.
    :meth:`aclose` (``async with contextlib.aclosing(run_groups(…)) as groups``) ends the episodes that are still
    running and closes their sessions; so does the collection of a run that is no longer referenced.
    """

    def __init__(
        self,
        play: Callable[[TaskRef, int | None], Coroutine[Any, Any, TrajectoryGroup]],
        tasks: Iterable[TaskRef],
        num_groups: int | None,
        seed: int | None,
        refills: int,
        max_concurrent: int,
        max_failed: int | None,
    ) -> None:
        self._running: dict[asyncio.Task[TrajectoryGroup], tuple[int, TaskRef | None]] = {}
        self._play = play
        self._waiting = iter(tasks)
        self._wanted = self._waiting if num_groups is None else itertools.islice(self._waiting, num_groups)
        self._seed = seed
        self._refills = refills
        self._max_concurrent = max_concurrent
        self._max_failed = max_failed
        self._ended: asyncio.Queue[asyncio.Task[TrajectoryGroup]] = asyncio.Queue()
        self._refills_due: collections.deque[tuple[int, TaskRef]] = collections.deque()
        self._begun: collections.Counter[TaskRef] = collections.Counter()
        self._failed_in_a_row, self._any_played, self._last_failure = 0, False, Failure("", "")
        self._closed = False

    async def __anext__(self) -> TrajectoryGroup:
        if self._closed:
            raise StopAsyncIteration
        try:
            if self._failed_in_a_row == self._max_failed:
                raise self._failed(f"{self._failed_in_a_row} groups in a row")
            self._start_due()
            if not self._running:
                if self._failed_in_a_row and not self._any_played and self._max_failed is not None:
                    raise self._failed("the run")
                raise StopAsyncIteration
            ended = await self._ended.get()
            refills, refilled_for = self._running.pop(ended)
            group = ended.result()
        except asyncio.CancelledError:
            raise  # the groups continue
        except BaseException:
            await self.aclose()
            raise
        if group.dropped and refills < self._refills:
            self._refills_due.append((refills + 1, group.task))
        if group.num_valid:
            self._failed_in_a_row, self._any_played = 0, True
        else:
            self._failed_in_a_row, self._last_failure = self._failed_in_a_row + 1, group.failures[-1]
        return group if refilled_for is None else replace(group, refilled_for=refilled_for)

    def _failed(self, what: str) -> RunFailedError:
        last = self._last_failure
        return RunFailedError(f"every episode of {what} failed. Last: {last.kind}: {last.message}")

    def _start_due(self) -> None:
        for task in itertools.islice(self._wanted, self._max_concurrent - len(self._running)):
            self._start(task)
        while (
            self._refills_due
            and len(self._running) < self._max_concurrent
            and (next_task := next(self._waiting, None)) is not None
        ):
            self._start(next_task, *self._refills_due.popleft())

    def _start(self, task: TaskRef, refills: int = 0, refilled_for: TaskRef | None = None) -> None:
        group_seed = derive_seed(self._seed, str(task), self._begun[task])
        self._begun[task] += 1
        group = asyncio.create_task(self._play(task, group_seed))
        self._running[group] = refills, refilled_for
        # Not asyncio.wait, which looks at every running group each time that one ends.
        group.add_done_callback(self._ended.put_nowait)

    async def aclose(self) -> None:
        """Cancel the running episodes and close their sessions; log how many groups that loses. Idempotent."""
        self._closed = True
        await asyncio.gather(*self._cancel(), return_exceptions=True)

    def _cancel(self) -> Iterable[asyncio.Task[TrajectoryGroup]]:
        running, self._running = self._running, {}
        if running:
            complete = self._ended.qsize()
            logger.log(
                logging.WARNING if complete else logging.INFO,
                "run_groups was left early: %d complete groups were not taken, %d running ones were cancelled",
                complete,
                len(running) - complete,
            )
        for group in running:
            group.cancel()
        return running

    def __del__(self) -> None:
        if self._running:
            loop = next(iter(self._running)).get_loop()
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has cancelled them
                loop.call_soon_threadsafe(self._cancel)
