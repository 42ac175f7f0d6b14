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

The names are the reference SDK's, and every method may be synchronous or asynchronous. The server runs a session's
synchronous methods on the session's own thread, so they may block and use thread-local state; its asynchronous ones run
on the event loop and must not block it.
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
"""The first message to the agent: a text, or blocks of text and images."""


class Environment:
    """One instance is one session: one episode of one task.

    ``__init__`` receives the task and the session's secrets; ``setup`` does the slow work. ``teardown`` runs once for
    every instance, even if ``setup`` failed, the session expired or the server stops.
    """

    toolsets: ClassVar[Sequence[type]] = ()
    """Classes with further tools. Each is constructed with the environment as its argument, or without arguments."""

    max_sessions: ClassVar[int | None] = None
    """Maximum sessions of this class in one server process; 1 for an environment with global state. Further ones are
    refused with 429, and their clients wait. None: only the server's own limit applies."""

    one_thread: ClassVar[bool] = False
    """Whether all sessions run their synchronous methods on one thread, for libraries that are not thread-safe."""

    _finder: ToolFinder | None = None

    def __init__(self, task_spec: Task | None = None, secrets: Mapping[str, str] | None = None) -> None:
        self.task_spec: Task = {} if task_spec is None else task_spec
        self.secrets: Mapping[str, str] = {} if secrets is None else secrets

    # ---------------------------------------------------------------- class methods: splits, tasks and tools

    @classmethod
    def name(cls) -> str:
        """The environment's name, in lower case in URLs."""
        return cls.__name__

    @classmethod
    def list_splits(cls) -> Sequence[Split | str]:
        """The splits of the tasks. A plain name that is not a split type has the type ``validation``."""
        raise NotImplementedError(f"{cls.__name__} must implement list_splits()")

    @classmethod
    def list_tasks(cls, split: str) -> Sequence[Task] | Awaitable[Sequence[Task]]:
        """All tasks of a split, read once. For too many tasks, implement the next two methods instead."""
        raise NotImplementedError(f"{cls.__name__} must implement list_tasks(), or num_tasks() and get_task()")

    @classmethod
    def num_tasks(cls, split: str) -> int | Awaitable[int]:
        """The number of tasks in the split. By default the length of :meth:`list_tasks`."""
        raise NotImplementedError(f"{cls.__name__} does not implement num_tasks()")

    @classmethod
    def get_task(cls, split: str, index: int) -> Task | Awaitable[Task]:
        """The task at ``index``. By default read from :meth:`list_tasks`.

        Raises:
            IndexError: there is no such task.
        """
        raise NotImplementedError(f"{cls.__name__} does not implement get_task()")

    @classmethod
    def get_task_range(
        cls, split: str, start: int | None = None, stop: int | None = None
    ) -> Sequence[Task] | Awaitable[Sequence[Task]]:
        """The tasks of the slice ``start`` to ``stop``. By default built from the other methods."""
        raise NotImplementedError(f"{cls.__name__} does not implement get_task_range()")

    @classmethod
    def list_tools(cls) -> ToolList:
        """The tools of every session: the methods marked with ``@tool``."""
        declared = declared_tools(cls, *cls.toolsets)
        return tool_list(declared, supports_score_group=cls.score_group is not Environment.score_group)

    # ---------------------------------------------------------------- instance methods: one episode

    def claim(self) -> Awaitable[None] | None:
        """Acquire scarce resources before the session is confirmed to the client; ``teardown`` releases them.

        Raises:
            RefusedError: with status 429 if none is available: the client waits and retries.
        """

    def setup(self) -> Awaitable[None] | None:
        """Prepare the episode. The prompt and tool calls wait for it."""

    def teardown(self) -> Awaitable[None] | None:
        """Release the episode's resources."""

    def get_prompt(self) -> Prompt | Awaitable[Prompt]:
        """The first message to the agent. By default the conversation of :meth:`get_messages` as text."""
        raise NotImplementedError(f"{type(self).__name__} must implement get_prompt() or get_messages()")

    def get_messages(self) -> Sequence[Message] | Awaitable[Sequence[Message]]:
        """The prompt as a conversation that the agent continues. By default one user message with the prompt."""
        raise NotImplementedError(f"{type(self).__name__} must implement get_prompt() or get_messages()")

    def list_task_tools(self) -> ToolList:
        """Tools of this session in addition to those of :meth:`list_tools`."""
        return ToolList()

    def call_tool(self, name: str, input: Mapping[str, Any]) -> ToolOutput | Awaitable[ToolOutput]:
        """Call a tool. By default one of the methods marked with ``@tool``; override it for tools defined by schemas.

        An incorrect call is refused with ``ToolOutput(ok=False, error=…, reason=…)`` and the reason ``not_found`` or
        ``input_validation``; an exception is an error of the environment and ends the episode. If this method is
        overridden, a session's calls run one at a time.
        """
        return _call_declared(self, name, input)

    def score_group(
        self, candidates: Sequence[GroupCandidate]
    ) -> Sequence[GroupScore | float] | Awaitable[Sequence[GroupScore | float]]:
        """Score the trajectories of one group, one score for each in order. Optional."""
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
