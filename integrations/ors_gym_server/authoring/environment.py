"""Writing an ORS environment: subclass :class:`Environment`, mark its tools, and serve it.

::

    class Guess(BaseModel):
        word: str

    class Hangman(Environment):
        @classmethod
        def list_splits(cls):
            return ["train", "test"]

        @classmethod
        def list_tasks(cls, split):
            return [{"word": word} for word in WORDS[split]]

        def get_prompt(self):
            return f"A word of {len(self.task_spec['word'])} letters."

        @tool
        def guess(self, params: Guess) -> ToolOutput:
            \"\"\"Guess the word.\"\"\"
            right = params.word == self.task_spec["word"]
            return ToolOutput((TextBlock("Yes!" if right else "No."),), reward=float(right), finished=right)

The words are the reference SDK's, and every method may be synchronous or asynchronous. The server runs a session's
synchronous methods on a thread of the session's own, so they may block and may keep what belongs to a thread; its
asynchronous ones run on the event loop, which they must not block.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from pydantic import ValidationError

from ors_gym.types import Block, GroupCandidate, GroupScore, Message, Split, Task, ToolList, ToolOutput
from ors_gym_server.authoring.tools import ToolFinder, as_output, declared_tools, refusal_of, terminal, tool, tool_list
from ors_gym_server.threads import on_session_thread

__all__ = ["Environment", "Prompt", "terminal", "tool"]

Prompt: TypeAlias = str | Sequence[Block]
"""What an agent is told first: a text, or blocks of text and images."""


class Environment:
    """One instance is one session: one episode of one task.

    ``__init__`` gets the task and the session's secrets; ``setup`` then does what takes long. ``teardown`` runs once
    for every instance that was made, also when ``setup`` failed, the session expired or the server stops.
    """

    toolsets: ClassVar[Sequence[type]] = ()
    """Classes whose tools the environment has too. Each is made with the environment, or without arguments."""

    max_sessions: ClassVar[int | None] = None
    """Sessions of this class that one server process holds at once, 1 where the environment has global state. One more
    is refused with 429, and its client waits. None: only the server's own limit counts."""

    one_thread: ClassVar[bool] = False
    """All sessions run their synchronous methods on one thread, for libraries that work on one thread only."""

    _finder: ToolFinder | None = None

    def __init__(self, task_spec: Task | None = None, secrets: Mapping[str, str] | None = None) -> None:
        self.task_spec: Task = {} if task_spec is None else task_spec
        self.secrets: Mapping[str, str] = {} if secrets is None else secrets

    # ---------------------------------------------------------------- the class: what there is

    @classmethod
    def name(cls) -> str:
        """The environment's name; on the wire it is in lower case."""
        return cls.__name__

    @classmethod
    def list_splits(cls) -> Sequence[Split | str]:
        """The splits of the tasks. A bare name that is no split type is of type ``validation``."""
        raise NotImplementedError(f"{cls.__name__} must implement list_splits()")

    @classmethod
    def list_tasks(cls, split: str) -> Sequence[Task] | Awaitable[Sequence[Task]]:
        """All tasks of a split, asked for once. Where there are too many, implement the next two instead."""
        raise NotImplementedError(f"{cls.__name__} must implement list_tasks(), or num_tasks() and get_task()")

    @classmethod
    def num_tasks(cls, split: str) -> int | Awaitable[int]:
        """How many tasks the split has. By default the server counts those of :meth:`list_tasks`."""
        raise NotImplementedError(f"{cls.__name__} does not implement num_tasks()")

    @classmethod
    def get_task(cls, split: str, index: int) -> Task | Awaitable[Task]:
        """The task at ``index``. By default the server looks into :meth:`list_tasks`.

        Raises:
            IndexError: there is none.
        """
        raise NotImplementedError(f"{cls.__name__} does not implement get_task()")

    @classmethod
    def get_task_range(
        cls, split: str, start: int | None = None, stop: int | None = None
    ) -> Sequence[Task] | Awaitable[Sequence[Task]]:
        """The tasks ``start`` to ``stop`` by the rules of Python slices. By default the server asks the others."""
        raise NotImplementedError(f"{cls.__name__} does not implement get_task_range()")

    @classmethod
    def list_tools(cls) -> ToolList:
        """The tools that every session has: the methods marked with ``@tool``."""
        declared = declared_tools(cls, *cls.toolsets)
        return tool_list(declared, supports_score_group=cls.score_group is not Environment.score_group)

    # ---------------------------------------------------------------- the instance: one episode

    def claim(self) -> Awaitable[None] | None:
        """Take what there is little of, before the session is promised to the client; ``teardown`` gives it back.

        Raises:
            RefusedError: with status 429, there is none left now: the client waits, and asks again.
        """

    def setup(self) -> Awaitable[None] | None:
        """Make the episode ready. Calls of tools and the prompt wait for it."""

    def teardown(self) -> Awaitable[None] | None:
        """Give back what the episode holds."""

    def get_prompt(self) -> Prompt | Awaitable[Prompt]:
        """What the agent is told first. By default the conversation of :meth:`get_messages` as text."""
        raise NotImplementedError(f"{type(self).__name__} must implement get_prompt() or get_messages()")

    def get_messages(self) -> Sequence[Message] | Awaitable[Sequence[Message]]:
        """The same as a conversation that the agent continues. By default the prompt as one user message."""
        raise NotImplementedError(f"{type(self).__name__} must implement get_prompt() or get_messages()")

    def list_task_tools(self) -> ToolList:
        """Tools that this session has beside those of :meth:`list_tools`."""
        return ToolList()

    def call_tool(self, name: str, input: Mapping[str, Any]) -> ToolOutput | Awaitable[ToolOutput]:
        """Call a tool. By default one of the methods marked with ``@tool``; override it for tools made from schemas.

        A call that the agent got wrong is refused with ``ToolOutput(ok=False, error=…, reason=…)``, reason one of
        ``not_found`` and ``input_validation``; an exception is the environment's fault and ends the episode. Where this
        is overridden, a session's calls run one at a time.
        """
        return _call_declared(self, name, input)

    def score_group(
        self, candidates: Sequence[GroupCandidate]
    ) -> Sequence[GroupScore | float] | Awaitable[Sequence[GroupScore | float]]:
        """Compare the trajectories of one group, one score for each in order. Optional: override it to support it."""
        raise NotImplementedError(f"{type(self).__name__} does not implement score_group()")


async def _call_declared(environment: Environment, name: str, input: Mapping[str, Any]) -> ToolOutput:
    finder = environment._finder  # pyright: ignore[reportPrivateUsage]
    if finder is None:
        finder = environment._finder = ToolFinder(environment)  # pyright: ignore[reportPrivateUsage]
    if not finder.ready:
        await on_session_thread(finder.make_toolsets)
    found = finder.find(name)
    if isinstance(found, ToolOutput):
        return found
    try:
        arguments = found.arguments(input)
    except ValidationError as error:
        return refusal_of(error)
    return as_output(name, await found.call(on_session_thread, arguments))
