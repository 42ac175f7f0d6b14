"""Records of episodes: plain picklable data.

An episode ends in exactly one of three ways: *terminated* (the environment said ``finished``, or the policy stopped),
*truncated* (a limit of the runner or of the environment), *failed* (infrastructure failure). A failed episode has no
return. Member i of a group stays at index i.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from ors_gym.types import (
    Block,
    Message,
    MessageBlock,
    ReasoningBlock,
    TextBlock,
    ToolCall,
    ToolCallBlock,
    ToolOutput,
    ToolResultBlock,
)

__all__ = [
    "Exchange",
    "Failure",
    "Reply",
    "StopReason",
    "TaskRef",
    "Trajectory",
    "TrajectoryGroup",
    "Transition",
    "count_tokens",
]


class StopReason(StrEnum):
    """Why an episode ended."""

    FINISHED = "finished"
    """The environment answered ``finished``. Terminated."""
    POLICY_STOPPED = "policy_stopped"
    """The policy sent a plain message where the environment has no terminal tool. Terminated."""
    ENVIRONMENT_LIMIT = "environment_limit"
    """The environment answered ``finished`` because of its own limit, such as a time limit. Truncated."""
    MAX_TURNS = "max_turns"
    """The limit of turns was reached. Truncated."""
    MAX_SECONDS = "max_episode_seconds"
    """The time limit was reached. Truncated."""
    MAX_TOKENS = "max_tokens"
    """The token limit was reached, or a message was cut off. Truncated."""
    FAILED = "failed"
    """Infrastructure failure: see :attr:`Trajectory.failure`."""

    @property
    def terminated(self) -> bool:
        """The episode reached its own end."""
        return self in (StopReason.FINISHED, StopReason.POLICY_STOPPED)

    @property
    def truncated(self) -> bool:
        """A limit of the runner or of the environment ended the episode."""
        return not (self.terminated or self.failed)

    @property
    def failed(self) -> bool:
        """Infrastructure failed; the episode must not be scored."""
        return self is StopReason.FAILED


@dataclass(frozen=True, slots=True, eq=False)
class TaskRef:
    """Which task an episode plays: ``index`` of ``split``, or a ``task`` object of its own.

    With an index, ``task`` is the server's JSON of the task where it is known; it is not compared.
    """

    env_name: str
    split: str | None = None
    index: int | None = None
    task: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if (self.split is None) != (self.index is None) or not (self.by_index or self.task is not None):
            raise ValueError("a TaskRef needs either split and index, or a task object")

    @property
    def by_index(self) -> bool:
        """Whether it names a task of a split."""
        return self.index is not None

    def _key(self) -> tuple[object, ...]:
        task = None if self.by_index or self.task is None else json.dumps(dict(self.task), sort_keys=True, default=str)
        return self.env_name, self.split, self.index, task

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, TaskRef) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __str__(self) -> str:
        named = f"{self.split}[{self.index}]" if self.by_index else dict(self.task or {})
        return f"{self.env_name}:{named}"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an episode failed: the error's ``kind`` and ``message``."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Transition:
    """One action, its output, and its duration."""

    action: ToolCall
    output: ToolOutput
    seconds: float = 0.0

    @property
    def reward(self) -> float | None:
        """The environment's reward, None when it gave none."""
        return self.output.reward


@dataclass(frozen=True, slots=True)
class Reply:
    """The model's message.

    Without tool calls it is a plain message: it goes to the environment's terminal tool where there is one, else it
    ends the episode. ``error`` says why the text could not be read as a call, and ``reason`` says it in one word to
    count by (see :data:`~ors_gym.dialects.ParseReason`): the policy gets it back as an observation.
    ``truncated`` says that the message was cut off by a token limit: the episode ends there.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    error: str | None = None
    reason: str | None = None
    reasoning: str = ""
    """The model's reasoning, kept in the conversation."""
    truncated: bool = False
    num_tokens: int | None = None
    """Tokens of the message, reasoning included, where known; they count against
    ``RolloutLimits.max_tokens``."""
    num_prompt_tokens: int | None = None
    """Input tokens, where known."""
    num_cached_tokens: int | None = None
    """Input tokens that the endpoint read from its cache."""
    num_reasoning_tokens: int | None = None
    """Reasoning tokens, a part of ``num_tokens``."""
    blocks: tuple[MessageBlock, ...] = field(default=(), compare=False)
    """The message as the endpoint sent it: its blocks in order, each with its original form in ``detail``, to be sent
    back unchanged. Empty where text, reasoning and calls are all there is."""

    def __post_init__(self) -> None:
        if self.error is not None and self.tool_calls:
            raise ValueError("a reply with an error calls no tools: its calls would stay without results")
        if self.blocks and sum(isinstance(block, ToolCallBlock) for block in self.blocks) != len(self.tool_calls):
            raise ValueError("the blocks of a reply hold its tool calls, one block each")


@dataclass(frozen=True, slots=True)
class Exchange:
    """One message of the agent and the outputs of its calls.

    ``transitions`` has the calls that were answered, in the order of the message. A plain message that went to the
    environment's terminal tool has one transition and no call of its own.
    """

    reply: Reply
    transitions: tuple[Transition, ...] = ()
    notices: tuple[Block, ...] = ()
    """Text for the agent after the results, such as a notice of the time limit."""
    finished: bool = False
    """Whether the environment ended the episode."""

    def __post_init__(self) -> None:
        calls = [call.id for call in self.reply.tool_calls]
        answered = [transition.action.id for transition in self.transitions]
        if calls and answered != [call_id for call_id in calls if call_id in answered]:
            raise ValueError(f"the calls of a message are answered in their order, each once: {answered} of {calls}")

    @property
    def outputs(self) -> tuple[ToolOutput, ...]:
        """The outputs shown to the agent: one per transition, or the error of an unreadable message."""
        if self.reply.error is not None:
            return (ToolOutput(ok=False, error=self.reply.error, reason=self.reply.reason),)
        return tuple(transition.output for transition in self.transitions)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks shown to the agent, in order."""
        return (*(block for output in self.outputs for block in output.shown), *self.notices)

    def said(self) -> Message:
        """The agent's message: reasoning, text and calls, in the order of its endpoint where known."""
        reply = self.reply
        if reply.blocks:
            ids = iter(call.id for call in reply.tool_calls)
            return Message("assistant", tuple(_with_id(block, ids) for block in reply.blocks))
        reasoning = (ReasoningBlock(reply.reasoning),) if reply.reasoning else ()
        text = (TextBlock(reply.text),) if reply.text else ()
        calls = (ToolCallBlock(call.id, call.name, call.input) for call in reply.tool_calls)
        return Message("assistant", (*reasoning, *text, *calls))

    def heard(self) -> tuple[Message, ...]:
        """The message that answers the agent, None without an output or error.

        The model does not know the terminal tool, so what that tool gives for a plain message is plain text and images.
        """
        if not self.reply.tool_calls:
            detail = None if self.reply.reason is None else {"reason": self.reply.reason}
            return (Message("user", self.blocks, detail),) if self.blocks else ()
        results: tuple[MessageBlock, ...] = tuple(
            ToolResultBlock(each.action.id, each.output.shown, is_error=not each.output.ok) for each in self.transitions
        )
        return (Message("user", (*results, *self.notices)),) if results or self.notices else ()


def _with_id(block: MessageBlock, ids: Iterator[str]) -> MessageBlock:
    return replace(block, id=next(ids)) if isinstance(block, ToolCallBlock) else block


def count_tokens(exchanges: Iterable[Exchange]) -> int | None:
    """Tokens of the agent's messages; None where unknown."""
    counts = [each.reply.num_tokens for each in exchanges if each.reply.num_tokens is not None]
    return sum(counts) if counts else None


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The record of one episode: its prompt and its exchanges. ``seconds`` counts from opening to end."""

    episode_id: str
    task: TaskRef
    stop_reason: StopReason
    prompt: tuple[Message, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    failure: Failure | None = None
    seconds: float = 0.0
    attempt: int = 0
    """Number of failed attempts before this one."""

    def __post_init__(self) -> None:
        if self.stop_reason.failed != (self.failure is not None):
            raise ValueError("a trajectory has a failure exactly when its stop_reason is FAILED")

    @property
    def completion(self) -> tuple[Message, ...]:
        """The conversation without its prompt: from the policy's first message on."""
        return tuple(message for each in self.exchanges for message in (each.said(), *each.heard()))

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole conversation, prompt first."""
        return (*self.prompt, *self.completion)

    @property
    def transitions(self) -> tuple[Transition, ...]:
        """Every call that was answered, in order."""
        return tuple(transition for each in self.exchanges for transition in each.transitions)

    @property
    def rewards(self) -> tuple[float | None, ...]:
        """The reward of each transition, as given."""
        return tuple(transition.reward for transition in self.transitions)

    @property
    def num_turns(self) -> int:
        """Messages of the policy."""
        return len(self.exchanges)

    @property
    def num_tokens(self) -> int | None:
        """Tokens that the policy wrote, None where it did not say."""
        return count_tokens(self.exchanges)

    @property
    def terminated(self) -> bool:
        """The episode reached its own end."""
        return self.stop_reason.terminated

    @property
    def truncated(self) -> bool:
        """A limit ended the episode."""
        return self.stop_reason.truncated

    @property
    def failed(self) -> bool:
        """Infrastructure failed: the episode has no return."""
        return self.stop_reason.failed


@dataclass(frozen=True, slots=True)
class TrajectoryGroup:
    """The trajectories of one task. A member whose every attempt failed stays at its index as its last failure."""

    task: TaskRef
    members: tuple[Trajectory, ...]
    failures: tuple[Failure, ...] = field(default=())
    """Every failed attempt, including those followed by a successful one."""
    dropped: bool = False
    """Too few members are valid under the failure policy: the group must not be trained on."""
    scores: tuple[float | None, ...] | None = None
    """Each member's score from the environment's ``score_group``, None for a member without one; None without
    scoring."""
    attempts: int = 0
    """Number of episodes started, including failed ones."""
    refilled_for: TaskRef | None = None
    """The task of the dropped group that this group replaces."""

    @property
    def num_valid(self) -> int:
        """Members that did not fail."""
        return sum(not member.failed for member in self.members)
