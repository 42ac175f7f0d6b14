"""Who plays: the policy protocol, and the policies that need no trainer.

A policy is asked once a turn and answers with what the model said: text, tool calls, or both. Ten lines make one::

    class AlwaysLook:
        async def act(self, turn: Turn) -> Reply:
            return Reply(tool_calls=(ToolCall("look"),))
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ors_gym.spaces import ToolCallSpace
from ors_gym.trajectory import TaskRef
from ors_gym.types import Message, ToolCall, ToolList

__all__ = ["Policy", "RandomPolicy", "Reply", "ScriptedPolicy", "Turn"]


@dataclass(frozen=True, slots=True)
class Turn:
    """What a policy is asked with: the conversation so far (prompt first) and the tools of this very episode."""

    episode_id: str
    task: TaskRef
    messages: tuple[Message, ...]
    tools: ToolList
    number: int = 0
    """The turn's number, from 0."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said.

    No tool calls means a plain message: it goes to the environment's terminal tool where there is one, else it ends
    the episode. ``error`` says why the text could not be read as a call: the policy gets it back as an observation.
    ``truncated`` says that the message was cut off by a token limit: the episode ends there.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    error: str | None = None
    truncated: bool = False


class Policy(Protocol):
    """Anything that answers a turn. It is asked for many episodes at once, once at a time for each."""

    async def act(self, turn: Turn) -> Reply:
        """Answer one turn. An exception ends the run: a policy's own faults are not the environment's."""
        ...


@dataclass
class RandomPolicy:
    """Calls a random tool with random input that its schema allows: the baseline every learned policy must beat."""

    seed: int | None = None
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    async def act(self, turn: Turn) -> Reply:
        """Sample one call; a plain message where the environment has only a terminal tool."""
        if not len(turn.tools):
            return Reply(text="".join(self._random.choices("abcdefghijklmnopqrstuvwxyz ", k=16)))
        space = ToolCallSpace(turn.tools, seed=self._random.getrandbits(31))
        return Reply(tool_calls=(space.sample(),))


@dataclass(frozen=True, slots=True)
class ScriptedPolicy:
    """Plays the same moves in every episode: a ToolCall is called, a str is a plain message; then it stops."""

    moves: Sequence[ToolCall | str]

    async def act(self, turn: Turn) -> Reply:
        """Play move number ``turn.number``."""
        if turn.number >= len(self.moves):
            return Reply()
        move = self.moves[turn.number]
        return Reply(text=move) if isinstance(move, str) else Reply(tool_calls=(move,))
