"""One environment class with any supported base class: its name, splits, tasks and tools.

Classes written for ``openreward.environments`` are recognised by their methods and attributes; that package is not
imported here.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ors_gym.http.answers import RefusedError
from ors_gym_server.authoring.environment import Environment
from ors_gym_server.authoring.tools import misdeclared_tools
from ors_gym_server.runtime.wire import encode, split_wire, tool_list_wire
from ors_gym_server.threads import SessionThread, SessionThreads, run_user

__all__ = ["HostedEnvironment"]

logger = logging.getLogger(__name__)

SDK_BASE = "openreward.environments.environment"
"""The module of the reference SDK's base class."""

SDK_BASES = (SDK_BASE, "ors.environment")
"""Modules of the other base classes that are served: the reference SDK's, and that of the package ors-sdk."""


class HostedEnvironment:
    """One environment class, checked when the server is made."""

    def __init__(self, cls: Any, workers: SessionThreads, toolsets: Mapping[str, type] | None = None) -> None:
        if not _is_environment(cls):
            raise TypeError(f"{cls!r} is no environment: subclass ors_gym_server.Environment")
        self.of_sdk = not issubclass(cls, Environment)
        """Whether the class was written for an SDK."""
        hidden = [name for name in dir(Environment) if getattr(getattr(cls, name, None), "_env_tool", False)]
        if hidden and not self.of_sdk:
            raise TypeError(
                f"the tool {hidden[0]!r} of {cls.__name__} hides the environment's own {hidden[0]}(); "
                "give it another name, or put it into a class of toolsets"
            )
        self.cls = cls
        self.name: str = self.cls.name().lower()
        self.workers = workers
        self.max_sessions: int | None = None if self.of_sdk else cls.max_sessions
        """Sessions of this class at once; None: the server's own limit."""
        self.num_sessions = 0
        """Sessions from their constructor to the end of their teardown."""
        self.one_thread: bool = False if self.of_sdk else cls.one_thread
        self._thread: SessionThread | None = None
        for fault in misdeclared_tools(cls) if self.of_sdk else ():
            logger.warning("environment %r: %s; as on the reference server, it is not served", self.name, fault)
        self._toolsets = toolsets
        self.tools = tool_list_wire(self.cls.list_tools())
        self.tools.setdefault("terminal_tool", None)  # ors-sdk has none
        self.tools["supports_score_group"] = self.implements("score_group")
        if not self.tools["tools"] and self.tools["terminal_tool"] is None:
            raise ValueError(f"environment {self.name!r} has no tools: mark at least one method with @tool")
        if sys.flags.optimize > 1:
            names = [spec["name"] for spec in self.tools["tools"]]
            logger.warning(
                "python -OO removes docstrings, so agents read no description of the tools of %r that has its text "
                "from there (%s), and nothing of what an environment's documentation says",
                self.name,
                ", ".join(names),
            )
        self.splits = [split_wire(split) for split in self.cls.list_splits()]
        if not self.splits:
            raise ValueError(f"environment {self.name!r} has no splits: list_splits() must return at least one")
        if not (self.implements("get_prompt") or self.implements("get_messages")):
            raise ValueError(f"environment {self.name!r} has no prompt: implement get_prompt() or get_messages()")
        self.tools_json = encode(self.tools)
        self._split_names = {split["name"] for split in self.splits}
        self._tasks: dict[str, Sequence[Any]] = {}
        self._reading: dict[str, asyncio.Lock] = {}

    def implements(self, method: str) -> bool:
        """Whether the class overrides the method instead of inheriting the base class's default.

        Of an SDK's class ``call_tool`` is no such method, whatever it is: no server of theirs calls it.
        """
        if method == "call_tool" and self.of_sdk:
            return False
        owner = next((each for each in self.cls.__mro__ if method in vars(each)), None)
        if owner is None or owner is Environment or owner.__module__ in SDK_BASES:
            return False
        return vars(owner)[method] is not vars(Environment).get(method)

    async def run(self, fn: Any, *args: Any) -> Any:
        """Call a method of the class, off the event loop if it is synchronous."""
        return await run_user(self.borrow_thread().run if self.one_thread else self.workers.run, fn, *args)

    def borrow_thread(self) -> SessionThread:
        """A thread for one session: its own, or the one that all sessions of the class share."""
        if not self.one_thread:
            return self.workers.borrow()
        if self._thread is None:
            self._thread = self.workers.borrow()
        return self._thread

    def give_back(self, thread: SessionThread) -> None:
        """A session no longer needs the thread; the shared one is kept."""
        if thread is not self._thread:
            self.workers.give_back(thread)

    def close(self) -> None:
        """End the shared thread when no session remains."""
        if self._thread is not None:
            self._thread.stop()
            self._thread = None

    # ---------------------------------------------------------------- tasks

    def _require_split(self, split: str) -> None:
        if split not in self._split_names:
            raise RefusedError(400, "Invalid split")

    async def all_tasks(self, split: str) -> Sequence[Any]:
        """The tasks of a split, read once.

        Raises:
            NotImplementedError: the class does not list them.
        """
        if split not in self._tasks:
            async with self._reading.setdefault(split, asyncio.Lock()):
                if split not in self._tasks:
                    tasks = await self.run(self.cls.list_tasks, split)
                    if not (hasattr(tasks, "__len__") and hasattr(tasks, "__getitem__")):
                        raise TypeError(f"list_tasks({split!r}) returned {type(tasks).__name__}; expected a list")
                    self._tasks[split] = tasks
        return self._tasks[split]

    async def list_tasks(self, split: str) -> Sequence[Any]:
        """All tasks of a split."""
        self._require_split(split)
        try:
            return await self.all_tasks(split)
        except NotImplementedError as error:
            instead = "Use the index-based API (num_tasks + get_task) instead."
            raise RefusedError(400, f"list_tasks is not supported for this environment. {instead}") from error

    async def num_tasks(self, split: str) -> int:
        """The number of tasks in a split."""
        self._require_split(split)
        if self.implements("num_tasks"):
            return int(await self.run(self.cls.num_tasks, split))
        return len(await self.all_tasks(split))

    async def get_task(self, split: str, index: int) -> Any:
        """The task at an index."""
        self._require_split(split)
        try:
            if self.implements("get_task"):
                return await self.run(self.cls.get_task, split, index)
            return (await self.all_tasks(split))[index]
        except IndexError as error:
            raise RefusedError(400, "Invalid index") from error

    async def get_task_range(self, split: str, start: int | None, stop: int | None) -> list[Any]:
        """The tasks of a slice."""
        self._require_split(split)
        try:
            if self.implements("get_task_range"):
                return list(await self.run(self.cls.get_task_range, split, start, stop))
            try:
                return list((await self.all_tasks(split))[slice(start, stop)])
            except NotImplementedError:
                indices = range(await self.num_tasks(split))[slice(start, stop)]
                return [await self.get_task(split, index) for index in indices]
        except IndexError as error:
            raise RefusedError(400, "Invalid index range") from error

    # ---------------------------------------------------------------- what a session may ask for

    def named_toolset(self, name: str) -> Any:
        """The toolset class that a client asked for by name."""
        toolsets = self._toolsets
        if toolsets is None and self._is_reference_class:  # its base class is here, so its package is
            toolsets = cast("Mapping[str, type]", importlib.import_module("openreward.toolsets").BUILTIN_TOOLSETS)
        toolsets = toolsets or {}
        if name not in toolsets:
            raise RefusedError(400, f"unknown toolset {name!r}; valid options are {sorted(toolsets)}")
        return toolsets[name]

    @property
    def _is_reference_class(self) -> bool:
        return any(each.__module__ == SDK_BASE for each in self.cls.__mro__)

    def sdk_record(self, name: str) -> Any:
        """A record class of the SDK that this class was written for, such as ``GroupCandidate``."""
        return getattr(sys.modules[SDK_BASE], name)


def _is_environment(cls: Any) -> bool:
    needed = ("name", "list_splits", "list_tools", "get_prompt")
    return isinstance(cls, type) and all(callable(getattr(cls, name, None)) for name in needed)
