"""Episodes and groups, run concurrently, with limits and a stated policy for failures.

An *episode host* plays single episodes: :class:`EpisodeRunner` in this process, ``ors_gym_ray.RolloutPool`` on Ray
actors. Groups are built over either in one place, here: failed members are played again on fresh sessions within a
budget, and a group with too few valid members is dropped, and said to be. There is no barrier anywhere: a slow episode
delays itself only.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ors_gym.client import ORSClient, Session
from ors_gym.errors import ORSError
from ors_gym.policy import Policy, Reply, Turn
from ors_gym.trajectory import Failure, StopReason, TaskRef, Trajectory, TrajectoryGroup, Transition
from ors_gym.types import (
    Message,
    MessageBlock,
    TextBlock,
    ToolCall,
    ToolCallBlock,
    ToolList,
    ToolOutput,
    ToolResultBlock,
)

__all__ = ["EpisodeHost", "EpisodeRunner", "FailurePolicy", "RolloutLimits", "run_all", "run_group", "run_groups"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RolloutLimits:
    """What may cut an episode short, and how many sessions may be open at once."""

    max_turns: int = 32
    """Messages of the policy in one episode."""
    max_episode_seconds: float | None = None
    """From the opening of the session; None is no limit."""
    max_concurrent_sessions: int = 256
    """Sessions that one host (process or actor) holds open at once; further episodes wait for a place."""

    def __post_init__(self) -> None:
        if self.max_turns < 1 or self.max_concurrent_sessions < 1:
            raise ValueError("max_turns and max_concurrent_sessions must be at least 1")
        if self.max_episode_seconds is not None and self.max_episode_seconds <= 0:
            raise ValueError("max_episode_seconds must be positive, or None for no limit")

    def reached(self, num_turns: int) -> StopReason | None:
        """The limit that an episode of so many turns has reached; its seconds are watched by a timer."""
        return StopReason.MAX_TURNS if num_turns >= self.max_turns else None


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """What becomes of a group when the world breaks some of its episodes."""

    retries: int = 2
    """Fresh sessions that a failed member may be played again on."""
    min_valid_members: int = 2
    """A group with fewer valid members is dropped: GRPO needs two to compare. Never more than the group's size."""
    retry_delay_seconds: float = 0.5
    """Wait before the first retry; doubles with each further one, so that a restarting server is given time."""

    def __post_init__(self) -> None:
        if self.retries < 0 or self.min_valid_members < 1 or self.retry_delay_seconds < 0:
            raise ValueError("retries and retry_delay_seconds must be at least 0, min_valid_members at least 1")


class EpisodeHost(Protocol):
    """Something that plays one episode: in this process, or on another machine."""

    async def run_episode(self, task: TaskRef, *, policy: Policy | None = None, attempt: int = 0) -> Trajectory:
        """Play one episode to its end. Faults of the world come back as a failed trajectory, never as an exception."""
        ...


class EpisodeRunner:
    """Plays episodes in this process, on the event loop it is used from.

    ``tools`` may give the tools when they are known to be the same for every task: it saves one request an episode.
    ``on_session`` is told the episode's and the session's id when a session is open: whoever may have to clean up
    behind this process keeps them.
    """

    def __init__(
        self,
        client: ORSClient,
        policy: Policy | None = None,
        *,
        limits: RolloutLimits | None = None,
        secrets: Mapping[str, str] | None = None,
        toolset: str | None = None,
        tools: ToolList | None = None,
        on_session: Callable[[str, str], None] | None = None,
    ) -> None:
        self.client = client
        self.policy = policy
        self.limits = limits or RolloutLimits()
        self._secrets = secrets
        self._toolset = toolset
        self._tools = tools
        self._on_session = on_session
        self._places = asyncio.Semaphore(self.limits.max_concurrent_sessions)

    async def run_episode(
        self, task: TaskRef, *, policy: Policy | None = None, attempt: int = 0, episode_id: str | None = None
    ) -> Trajectory:
        """Play one episode of ``task`` with ``policy``, or with the runner's own."""
        policy = policy or self.policy
        if policy is None:
            raise ValueError("no policy: give one to the EpisodeRunner or to run_episode")
        async with self._places:
            episode = _Episode(episode_id or uuid.uuid4().hex, task, attempt)
            await episode.play(self._session(task), policy, self.limits, self._tools, self._on_session)
        return episode.trajectory()

    def _session(self, task: TaskRef) -> Session:
        return self.client.session(
            task.env_name,
            split=task.split,
            index=task.index,
            task=task.task,
            secrets=self._secrets,
            toolset=self._toolset,
        )


class _Episode:
    """One episode in the making."""

    def __init__(self, episode_id: str, task: TaskRef, attempt: int) -> None:
        self.episode_id = episode_id
        self.task = task
        self.attempt = attempt
        self.messages: list[Message] = []
        self.transitions: list[Transition] = []
        self.num_turns = 0
        self.stop_reason: StopReason | None = None
        self.failure: Failure | None = None
        self.seconds = 0.0

    async def play(
        self,
        opening: Session,
        policy: Policy,
        limits: RolloutLimits,
        tools: ToolList | None,
        on_session: Callable[[str, str], None] | None = None,
    ) -> None:
        started = time.monotonic()
        deadline = asyncio.timeout(limits.max_episode_seconds)
        try:
            async with deadline, opening as session:
                if on_session is not None:
                    on_session(self.episode_id, session.id)
                tools = await session.list_tools() if tools is None else tools
                self.messages.extend(await session.get_messages())
                while self.stop_reason is None:
                    await self._turn(session, policy, tools)
                    self.stop_reason = self.stop_reason or limits.reached(self.num_turns)
        except ORSError as error:
            # An episode that had reached its end keeps it: only the clean-up failed.
            if self.stop_reason is None:
                self.stop_reason, self.failure = StopReason.FAILED, Failure(error.kind, str(error))
        except TimeoutError:
            if not deadline.expired():
                raise
            self.stop_reason = self.stop_reason or StopReason.MAX_SECONDS
        self.seconds = time.monotonic() - started

    async def _turn(self, session: Session, policy: Policy, tools: ToolList) -> None:
        turn = Turn(self.episode_id, self.task, tuple(self.messages), tools, self.num_turns)
        reply = await policy.act(turn)
        calls = [ToolCallBlock(f"call_{turn.number}_{i}", c.name, c.input) for i, c in enumerate(reply.tool_calls)]
        text = (TextBlock(reply.text),) if reply.text else ()
        self.messages.append(Message("assistant", (*text, *calls)))
        self.num_turns += 1
        if reply.truncated:
            self.stop_reason = StopReason.MAX_TOKENS
        elif reply.error is not None:
            self.messages.append(Message("user", (TextBlock(reply.error),)))
        elif not calls:
            await self._plain_message(session, reply, tools)
        else:
            await self._call_tools(session, calls)

    async def _plain_message(self, session: Session, reply: Reply, tools: ToolList) -> None:
        terminal = tools.terminal_tool
        if terminal is None:
            self.stop_reason = StopReason.POLICY_STOPPED
            return
        called = time.monotonic()
        output = await session.call_terminal_tool(reply.text)
        action = ToolCall(terminal.name, {} if terminal.arg is None else {terminal.arg: reply.text})
        self._record(action, output, called)
        self.stop_reason = StopReason.FINISHED

    async def _call_tools(self, session: Session, calls: Iterable[ToolCallBlock]) -> None:
        """Call the tools in order; after ``finished`` nothing more is called."""
        results: list[MessageBlock] = []
        for call in calls:
            called = time.monotonic()
            output = await session.call_tool(call.name, call.input)
            self._record(ToolCall(call.name, call.input), output, called)
            blocks = output.blocks if output.ok else (TextBlock(output.text),)
            results.append(ToolResultBlock(call.id, blocks, is_error=not output.ok))
            if output.finished:
                self.stop_reason = StopReason.FINISHED
                break
        self.messages.append(Message("user", tuple(results)))

    def _record(self, action: ToolCall, output: ToolOutput, called: float) -> None:
        self.transitions.append(Transition(action, output, self.num_turns - 1, time.monotonic() - called))

    def trajectory(self) -> Trajectory:
        assert self.stop_reason is not None
        return Trajectory(
            episode_id=self.episode_id,
            task=self.task,
            stop_reason=self.stop_reason,
            transitions=tuple(self.transitions),
            messages=tuple(self.messages),
            failure=self.failure,
            seconds=self.seconds,
            num_turns=self.num_turns,
            attempt=self.attempt,
        )


async def run_group(
    host: EpisodeHost,
    task: TaskRef,
    group_size: int,
    *,
    policy: Policy | None = None,
    failures: FailurePolicy | None = None,
) -> TrajectoryGroup:
    """Play ``group_size`` episodes of one task at once; a failed member is played again on a fresh session.

    Member i stays at index i. The group is ``dropped`` when fewer than ``min_valid_members`` remain valid.
    """
    if group_size < 1:
        raise ValueError("group_size must be at least 1")
    failure_policy = failures or FailurePolicy()
    seen: list[Failure] = []

    async def member() -> Trajectory:
        attempt = 0
        while True:
            trajectory = await host.run_episode(task, policy=policy, attempt=attempt)
            if trajectory.failure is None:
                return trajectory
            seen.append(trajectory.failure)
            if attempt >= failure_policy.retries:
                return trajectory
            await asyncio.sleep(failure_policy.retry_delay_seconds * 2**attempt)
            attempt += 1

    members = await run_all(member() for _ in range(group_size))
    valid = sum(not trajectory.failed for trajectory in members)
    dropped = valid < min(failure_policy.min_valid_members, group_size)
    return TrajectoryGroup(task, tuple(members), tuple(seen), dropped)


async def run_groups(
    host: EpisodeHost,
    tasks: Iterable[TaskRef],
    group_size: int,
    *,
    policy: Policy | None = None,
    failures: FailurePolicy | None = None,
    max_concurrent_groups: int = 64,
) -> AsyncIterator[TrajectoryGroup]:
    """Play a group of each task and yield each group as it completes.

    At most ``max_concurrent_groups`` are under way, so an endless ``tasks`` is fine. Leaving the loop early ends the
    episodes that are still under way and closes their sessions.
    """
    waiting = iter(tasks)
    running: set[asyncio.Task[TrajectoryGroup]] = set()
    try:
        while True:
            for task in itertools.islice(waiting, max_concurrent_groups - len(running)):
                running.add(asyncio.create_task(run_group(host, task, group_size, policy=policy, failures=failures)))
            if not running:
                return
            complete, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for group in complete:
                yield group.result()
                running.remove(group)
    finally:
        for group in running:
            group.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def run_all(coroutines: Iterable[Coroutine[None, None, _T]]) -> list[_T]:
    """Run all at once, results in order. The first exception cancels the others, which close their sessions."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as error:
        raise error.exceptions[0] from None
    return [task.result() for task in tasks]
