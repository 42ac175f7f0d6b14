"""One episode: a conversation of policy and environment, until one of them or a limit ends it.

An *episode host* plays single episodes: :class:`EpisodeRunner` in this process, ``ors_gym_ray.RolloutPool`` on Ray
actors. Groups are built over either in :mod:`ors_gym.rollouts.groups`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Unpack

from ors_gym.client.arguments import check_number, check_type, types_in_words
from ors_gym.client.client import ORSClient, Session
from ors_gym.errors import NotFoundError, ORSError, ProtocolError, RequestTimeoutError
from ors_gym.policies.asking import ask
from ors_gym.policies.policy import Policy, Turn, check_policy
from ors_gym.rollouts.exchange import Conversation
from ors_gym.rollouts.options import SessionOptions, check_session_options, open_session
from ors_gym.rollouts.seeds import derive_seed
from ors_gym.trajectory import Failure, StopReason, TaskRef, Trajectory, count_tokens
from ors_gym.types import GroupCandidate, GroupScore, ToolList

__all__ = ["EpisodeHost", "EpisodeRunner", "RolloutLimits"]


@dataclass(frozen=True, slots=True)
class RolloutLimits:
    """Limits of an episode, and of concurrent sessions."""

    max_turns: int = 32
    """Messages of the policy in one episode."""
    max_episode_seconds: float | None = None
    """Seconds from the opening of the session; None means no limit."""
    max_concurrent_sessions: int = 256
    """Maximum open sessions of one host (process or actor); further episodes wait."""
    max_tokens: int | None = None
    """Maximum tokens of the policy in one episode, as reported in ``Reply.num_tokens``; None means no limit.
    ``Turn.max_tokens`` has the rest; the episode ends after the turn that reaches the limit."""

    def __post_init__(self) -> None:
        check_number("max_turns", self.max_turns, none=False, whole=True)
        check_number("max_episode_seconds", self.max_episode_seconds)
        check_number("max_concurrent_sessions", self.max_concurrent_sessions, none=False, whole=True)
        check_number("max_tokens", self.max_tokens, whole=True)
        if self.max_turns < 1 or self.max_concurrent_sessions < 1:
            raise ValueError("max_turns and max_concurrent_sessions must be at least 1")
        if self.max_episode_seconds is not None and self.max_episode_seconds <= 0:
            raise ValueError("max_episode_seconds must be positive, or None for no limit")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError("max_tokens must be at least 1, or None for no limit")

    def reached(self, num_turns: int, num_tokens: int | None = None) -> StopReason | None:
        """The limit of turns or tokens that an episode has reached; a timer watches its seconds."""
        if self.max_tokens is not None and num_tokens is not None and num_tokens >= self.max_tokens:
            return StopReason.MAX_TOKENS
        return StopReason.MAX_TURNS if num_turns >= self.max_turns else None


class EpisodeHost(Protocol):
    """Plays episodes, in this process or on another machine."""

    async def run_episode(
        self, task: TaskRef, *, policy: Policy | None = None, attempt: int = 0, seed: int | None = None
    ) -> Trajectory:
        """Play one episode to its end; ``seed`` seeds the policy's draws.

        Infrastructure failures are returned as a failed trajectory, never raised.
        """
        ...

    async def score_group(self, task: TaskRef, candidates: Sequence[GroupCandidate]) -> Sequence[GroupScore]:
        """Have the environment score a task's trajectories against each other: one score each, in order.

        Raises:
            NotFoundError: the environment does not score groups.
            ORSError: scoring failed. It changes nothing, so it may be retried.
        """
        ...


class EpisodeRunner:
    """Plays episodes in this process, on the event loop it is used from.

    Args:
        client: The server's client.
        policy: The policy, unless ``run_episode`` is given another.
        limits: Limits of the episodes.
        options: See :class:`~ors_gym.rollouts.options.SessionOptions`.
    """

    @types_in_words
    def __init__(
        self,
        client: ORSClient,
        policy: Policy | None = None,
        *,
        limits: RolloutLimits | None = None,
        **options: Unpack[SessionOptions],
    ) -> None:
        check_type("client", client, ORSClient, none=False)
        check_policy(policy)
        check_type("limits", limits, RolloutLimits)
        self.client = client
        self.policy = policy
        self.limits = limits or RolloutLimits()
        self._options = check_session_options(options)
        self._places = asyncio.Semaphore(self.limits.max_concurrent_sessions)

    async def run_episode(
        self,
        task: TaskRef,
        *,
        policy: Policy | None = None,
        attempt: int = 0,
        seed: int | None = None,
        episode_id: str | None = None,
    ) -> Trajectory:
        """Play one episode of ``task`` with ``policy``, or with the runner's own."""
        policy = policy or self.policy
        if policy is None:
            raise ValueError("no policy: give one to the EpisodeRunner or to run_episode")
        async with self._places:
            episode_id = episode_id or uuid.uuid4().hex
            episode = _Episode(episode_id, task, attempt, seed, policy, self.limits, self._options)
            await episode.play(open_session(self.client, task, self._options))
        return episode.trajectory()

    async def score_group(self, task: TaskRef, candidates: Sequence[GroupCandidate]) -> Sequence[GroupScore]:
        """Score trajectories of ``task`` against each other, on their own session.

        Blocks of kinds that the server does not take in messages are left out.

        Raises:
            NotFoundError: the environment does not score groups.
            ORSError: scoring failed.
        """
        tools = await self.client.known_tools(task.env_name)
        if not tools.supports_score_group:
            raise NotFoundError(404, f"{task.env_name!r} does not score groups")
        taken = [_with_blocks(candidate, tools.message_block_types) for candidate in candidates]
        async with self._places, open_session(self.client, task, self._options) as session:
            try:
                return await session.score_group(taken)
            except ValueError as error:  # half a surrogate pair, or another thing that JSON cannot carry
                raise ProtocolError(f"the trajectories of {task} cannot be sent: {error}") from None


def _with_blocks(candidate: GroupCandidate, kinds: Collection[str]) -> GroupCandidate:
    """``candidate`` with blocks of these kinds only, without messages that become empty."""
    messages = (
        replace(message, blocks=tuple(block for block in message.blocks if block.type in kinds))
        for message in candidate.messages
    )
    return replace(candidate, messages=tuple(message for message in messages if message.blocks))


class _Episode:
    """One episode in progress."""

    def __init__(
        self,
        episode_id: str,
        task: TaskRef,
        attempt: int,
        seed: int | None,
        policy: Policy,
        limits: RolloutLimits,
        options: SessionOptions,
    ) -> None:
        self.episode_id = episode_id
        self.task = task
        self.attempt = attempt
        self.seed = seed
        self.policy = policy
        self.limits = limits
        self._options = options
        self.conversation: Conversation | None = None
        self.stop_reason: StopReason | None = None
        self.failure: Failure | None = None
        self.seconds = 0.0

    async def play(self, opening: Session) -> None:
        started = time.monotonic()
        deadline = asyncio.timeout(self.limits.max_episode_seconds)
        try:
            async with deadline, opening as session:
                tools = self._options.get("tools") or await session.list_tools()
                prompt = await session.get_messages()
                self.conversation = Conversation(session, prompt, tools.terminal_tool, self._options)
                while self.stop_reason is None:
                    await self._turn(self.conversation, tools)
        except ORSError as error:
            # An episode that had reached its end keeps it: only the clean-up failed.
            if self.stop_reason is None:
                self.stop_reason, self.failure = StopReason.FAILED, Failure(error.kind, str(error))
        except TimeoutError:
            if not deadline.expired():
                raise
            if self.conversation is None:  # nothing was played, so there is nothing to cut short
                limit = self.limits.max_episode_seconds
                late = RequestTimeoutError(f"the session was not open within max_episode_seconds={limit:g}")
                self.stop_reason, self.failure = StopReason.FAILED, Failure(late.kind, str(late))
            else:
                self.stop_reason = self.stop_reason or self.conversation.end or StopReason.MAX_SECONDS
        self.seconds = time.monotonic() - started

    async def _turn(self, conversation: Conversation, tools: ToolList) -> None:
        limit = self.limits.max_tokens
        left = None if limit is None else limit - (count_tokens(conversation.exchanges) or 0)
        number = len(conversation.exchanges)
        seed = derive_seed(self.seed, number)
        turn = Turn(self.episode_id, self.task, conversation.messages, tools, number, left, seed)
        reply = await ask(self.policy, turn)
        await conversation.play(reply)
        reached = self.limits.reached(number + 1, count_tokens(conversation.exchanges))
        self.stop_reason = conversation.stop_reason or reached

    def trajectory(self) -> Trajectory:
        assert self.stop_reason is not None
        return Trajectory(
            episode_id=self.episode_id,
            task=self.task,
            stop_reason=self.stop_reason,
            prompt=self.conversation.prompt if self.conversation else (),
            exchanges=tuple(self.conversation.exchanges) if self.conversation else (),
            failure=self.failure,
            seconds=self.seconds,
            attempt=self.attempt,
        )
