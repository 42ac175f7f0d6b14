"""The policy protocol, and policies that need no trainer.

A policy receives a turn and returns the model's message: text, tool calls, or both. A minimal one::

    class AlwaysLook:
        async def act(self, turn: Turn) -> Reply:
            return Reply(tool_calls=(ToolCall("look"),))
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from ors_gym.spaces.spaces import ToolCallSpace
from ors_gym.trajectory import Reply, TaskRef
from ors_gym.types import Message, ToolCall, ToolList, ToolResultBlock, text_of

__all__ = ["Policy", "RandomPolicy", "Reply", "Said", "ScriptedPolicy", "Turn", "check_policy"]

EPISODES_KEPT = 1 << 14
"""Episodes whose state a random policy keeps, as it is not notified of their end; more than run at once."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The input of a policy: the conversation so far (prompt first) and the tools of this episode."""

    episode_id: str
    task: TaskRef
    messages: tuple[Message, ...]
    tools: ToolList
    number: int = 0
    """The turn's number, from 0."""
    max_tokens: int | None = None
    """Remaining tokens of the episode's limit for this message; None: no limit."""
    seed: int | None = None
    """The seed for sampling this message, different for each episode and turn; None if the run has no seed."""

    @property
    def observation(self) -> str:
        """The text of the last message: at first the prompt, then the results of tools."""
        blocks = self.messages[-1].blocks if self.messages else ()
        texts = (text_of(block.blocks) if isinstance(block, ToolResultBlock) else text_of((block,)) for block in blocks)
        return "\n".join(filter(None, texts))


Said: TypeAlias = Reply | ToolCall | Sequence[ToolCall] | str | Mapping[str, Any]
"""What a policy may return; see :func:`~ors_gym.policies.asking.reply_of`."""


class Policy(Protocol):
    """Anything that answers turns. It is called for many episodes concurrently, one turn at a time for each.

    ``act`` may also be a plain function, which runs on a thread, and may return a call, a text, or an assistant message
    of Chat Completions (see :func:`~ors_gym.policies.asking.reply_of`).
    """

    def act(self, turn: Turn) -> Said | Awaitable[Said]:
        """Answer one turn. An exception ends the run: errors of a policy are not the environment's."""
        ...


def check_policy(policy: object) -> None:
    """Refuse an object that is not a policy.

    Raises:
        ValueError: ``policy`` has no method ``act``.
    """
    if policy is not None and not callable(getattr(policy, "act", None)):
        raise ValueError(f"policy must have a method act(turn), or be None, got {type(policy).__name__}")


class RandomPolicy:
    """Calls a random tool with random input that its schema allows, as a baseline for learned policies.

    In a run with a seed, each turn has its own. Without one, and with a ``seed`` here, the n-th episode of a task is
    played the same way in every run.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._seed = seed
        self._begun: Counter[str] = Counter()
        self._episodes: dict[str, random.Random] = {}

    async def act(self, turn: Turn) -> Reply:
        """Sample one call; a plain message if the environment has only a terminal tool."""
        draw = self._draw_for(turn) if turn.seed is None else random.Random(f"{self._seed} {turn.seed}")
        if not len(turn.tools):
            return Reply(text="".join(draw.choices("abcdefghijklmnopqrstuvwxyz ", k=16)))
        return Reply(tool_calls=(ToolCallSpace(turn.tools, seed=draw.getrandbits(31)).sample(),))

    def _draw_for(self, turn: Turn) -> random.Random:
        draw = self._episodes.get(turn.episode_id)
        if draw is None:
            task = str(turn.task)
            seed = None if self._seed is None else f"{self._seed} {task} {self._begun[task]}"
            self._begun[task] += 1
            if len(self._episodes) == EPISODES_KEPT:
                del self._episodes[next(iter(self._episodes))]  # the oldest, long over
            draw = self._episodes[turn.episode_id] = random.Random(seed)
        return draw


@dataclass(frozen=True, slots=True)
class ScriptedPolicy:
    """Plays the same moves in every episode: a ToolCall is called, a str is sent as a plain message; then it stops."""

    moves: Sequence[ToolCall | str]

    async def act(self, turn: Turn) -> Reply:
        """Play move number ``turn.number``."""
        if turn.number >= len(self.moves):
            return Reply()
        move = self.moves[turn.number]
        return Reply(text=move) if isinstance(move, str) else Reply(tool_calls=(move,))
