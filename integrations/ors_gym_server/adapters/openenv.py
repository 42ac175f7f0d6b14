"""OpenEnv environments as ORS environments.

::

    Maze = from_openenv(MazeEnvironment)                 # a class: one instance for each session, in this process
    Maze = from_openenv("https://host.example:8000")     # a running server, by its URL or a client of it
    app = create_app([Maze])

An environment's typed action is the tool ``step``, with the action's schema; each MCP tool is a separate tool.

Tasks are those of OpenEnv's task protocol, reset by split and index; without it they are seeds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from openenv.core.env_client import EnvClient
from openenv.core.env_server.types import Action

from ors_gym.http.answers import RefusedError
from ors_gym.types import Block, ImageBlock, Split, Task, TextBlock, ToolList, ToolOutput, ToolSpec
from ors_gym_server.adapters.gymnasium import DEFAULT_SPLITS
from ors_gym_server.adapters.observation_text import observation_blocks
from ors_gym_server.adapters.openenv_episode import (
    ActionRefused,
    AnyOpenEnv,
    LocalEpisode,
    Payload,
    RemoteEpisode,
    RemoteServer,
    ServerFull,
)
from ors_gym_server.adapters.openenv_source import LocalSource, RemoteSource
from ors_gym_server.adapters.seed_tasks import SeedTasks, Tasks
from ors_gym_server.authoring.environment import Environment

__all__ = ["OpenEnvORSEnvironment", "from_openenv"]

Formatter = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Telling:
    """What the agent and the caller are told, and how."""

    instructions: str
    formatter: Formatter | None


class OpenEnvORSEnvironment(Environment):
    """One episode of an OpenEnv environment. :func:`from_openenv` creates its classes."""

    source: ClassVar[LocalSource | RemoteSource]
    tools: ClassVar[Mapping[str, ToolSpec]]
    seeds: ClassVar[SeedTasks]
    telling: ClassVar[Telling]

    _episode: LocalEpisode | RemoteEpisode | None = None
    _first: tuple[Block, ...] = ()
    _finished = False

    @classmethod
    def list_splits(cls) -> Sequence[Split | str]:
        """The splits of the environment's own tasks, or of the seeds."""
        return cls.seeds.splits if cls.source.tasks is None else cls.source.tasks.splits

    @classmethod
    def num_tasks(cls, split: str) -> int:
        """The number of tasks in the split."""
        return cls.seeds.count(split) if cls.source.tasks is None else cls.source.tasks.num_tasks(split)

    @classmethod
    def get_task(cls, split: str, index: int) -> Task:
        """``{"split", "index", "task"}`` with the environment's own record as ``task``, or ``{"id", "seed"}``."""
        if cls.source.tasks is None:
            return cls.seeds.at(split, index)
        if not 0 <= index < cls.source.tasks.num_tasks(split):
            raise IndexError(f"split {split!r} has no task {index}")
        return {"split": split, "index": index, "task": cls.source.tasks.get_task(split, index)}

    @classmethod
    def list_tasks(cls, split: str) -> Sequence[Task]:
        """All tasks of the split."""
        return cls.seeds.all(split) if cls.source.tasks is None else cls.get_task_range(split)

    @classmethod
    def get_task_range(cls, split: str, start: int | None = None, stop: int | None = None) -> Sequence[Task]:
        """The tasks ``start`` to ``stop``."""
        return [cls.get_task(split, index) for index in range(cls.num_tasks(split))[start:stop]]

    @classmethod
    def list_tools(cls) -> ToolList:
        """The typed action and the MCP tools."""
        return ToolList(tuple(cls.tools.values()))

    async def claim(self) -> None:
        """Reserve a session on the OpenEnv server, which may be full."""
        self._episode = self.source.episode()
        try:
            await self._episode.connect()
        except ServerFull as full:
            raise RefusedError(429, str(full), 1) from None

    async def setup(self) -> None:
        """Construct the environment, or a session on its server, and reset it."""
        if self._episode is None:
            await self.claim()
        assert self._episode is not None
        arguments = {name: value for name, value in self.task_spec.items() if name not in ("id", "options", "task")}
        self._first = self._blocks(await self._episode.reset(arguments | (self.task_spec.get("options") or {})))

    async def teardown(self) -> None:
        """Close the episode."""
        episode, self._episode = self._episode, None
        if episode is not None:
            await episode.close()

    def get_prompt(self) -> Sequence[Block]:
        """The instructions and the first observation."""
        instructions = self.telling.instructions
        return [TextBlock(f"{instructions}\n"), *self._first] if instructions else self._first

    async def call_tool(self, name: str, input: Mapping[str, Any]) -> ToolOutput:
        """Take the action. An invalid one does not change the episode."""
        if self._episode is None:
            raise RuntimeError("the session has no episode: setup() has not run, or teardown() has")
        if self._finished:
            return ToolOutput(ok=False, error="The episode is over.", reason="episode_finished")
        refusal = self._refusal(name, input)
        if refusal is not None:
            return refusal
        try:
            payload = await (self._episode.step(input) if name == "step" else self._episode.call(name, input))
        except ActionRefused as error:
            return _refused(str(error))
        return self._told(payload, await self._episode.state())

    def _refusal(self, name: str, input: Mapping[str, Any]) -> ToolOutput | None:
        tool = self.tools.get(name)
        if tool is None:
            return _refused(f"There is no tool {name!r}; there is {', '.join(self.tools)}.", "not_found")
        error = best_match(Draft202012Validator(tool.parameters).iter_errors(dict(input)))
        if error is None:
            return None
        place = "".join(f"[{part!r}]" for part in error.path)
        return _refused(f"{name}{place}: {error.message}. {name} takes {tool.parameters.get('properties')}")

    def _told(self, payload: Payload, state: Payload) -> ToolOutput:
        self._finished = bool(payload.get("done"))
        observation = cast("Mapping[str, Any]", payload["observation"])
        error = observation.get("error")
        if isinstance(error, Mapping) and error.get("error_type") in ("invalid_args", "tool_not_found"):
            reason = "not_found" if error["error_type"] == "tool_not_found" else "input_validation"
            return _refused(str(error.get("message")), reason)
        reward = payload.get("reward")
        metadata = {"metadata": observation.get("metadata") or {}, "state": state}
        return ToolOutput(self._blocks(payload), None if reward is None else float(reward), self._finished, metadata)

    def _blocks(self, payload: Payload) -> tuple[Block, ...]:
        hidden = ("done", "reward", "metadata")
        shown = {name: value for name, value in payload["observation"].items() if name not in hidden}
        if self.telling.formatter is not None:
            return (TextBlock(self.telling.formatter(shown)),)
        if set(shown) >= {"tool_name", "result"}:
            return _result_blocks(shown)
        return tuple(observation_blocks(shown)) if shown else ()


def _result_blocks(shown: Mapping[str, Any]) -> tuple[Block, ...]:
    """The content of an MCP tool's result; an error of the tool becomes a text."""
    if shown.get("error") is not None:
        return (TextBlock(f"Error: {shown['error'].get('message')}"),)
    result = shown["result"]
    if not isinstance(result, Mapping) or "content" not in result:
        return tuple(observation_blocks(result))
    blocks: list[Block] = []
    for content in result["content"]:
        if content.get("type") == "image":
            blocks.append(ImageBlock(content["data"], content.get("mimeType") or "image/png"))
        else:
            blocks.append(TextBlock(str(content.get("text", content))))
    return tuple(blocks)


def _refused(message: str, reason: str = "input_validation") -> ToolOutput:
    return ToolOutput(ok=False, error=message, reason=reason)


def from_openenv(
    env: str | EnvClient[Any, Any, Any] | Callable[..., AnyOpenEnv],
    *,
    name: str | None = None,
    action: type[Action] | None = None,
    splits: Mapping[str, Tasks] | None = None,
    formatter: Formatter | None = None,
    instructions: str | None = None,
    headers: Mapping[str, str] | None = None,
    **arguments: Any,
) -> type[OpenEnvORSEnvironment]:
    """Convert an OpenEnv environment to an ORS environment.

    Args:
        env: The environment's class, or a function that creates it; or the URL of a running OpenEnv server, or a client
            of it (each session then has its own connection to the same server, with the client's headers).
        name: The name of the class and the environment (default: the environment's own name).
        action: The class of its actions, if ``step`` is not annotated with it.
        splits: Seeds, as for :func:`~ors_gym_server.as_ors_environment`; not for an environment with its own tasks. A
            task's ``options`` are further arguments of ``reset``.
        formatter: Formats an observation, without reward and metadata, as text.
        instructions: The first message to the agent (default: the environment's own description).
        headers: Headers for the server, such as ``Authorization``.
        **arguments: Arguments of the class.

    Raises:
        ConnectionError: No OpenEnv server responds at the URL.
        TypeError: The class of the actions is unknown.
        ValueError: Splits overlap, or the client has no URL yet.
    """
    source: LocalSource | RemoteSource
    if isinstance(env, EnvClient):
        headers = headers or env._headers  # pyright: ignore[reportPrivateUsage]
        env = _url_of(env)
    if isinstance(env, str):
        source = RemoteSource(RemoteServer(_http_url(env), headers))
    else:
        make = env
        # One whose instances belong to one thread is not made here: what it keeps for the process would stay with this
        # thread. Any other is, so that what is wrong with its arguments is said now.
        of_one_thread = isinstance(env, type) and getattr(env, "REQUIRES_SINGLE_THREAD_EXECUTOR", False)
        known = cast("type[AnyOpenEnv]", env) if of_one_thread else None
        source = LocalSource(lambda: make(**arguments), action, known)
    tools = {tool.name: tool for tool in (*_typed_tool(source), *source.mcp_tools)}
    if not tools:
        raise ValueError(f"{source.name} has neither a typed action nor MCP tools")
    attributes = {
        "__doc__": f"{source.name} as an ORS environment.",
        "source": source,
        "tools": tools,
        "seeds": SeedTasks(DEFAULT_SPLITS if splits is None else splits),
        "telling": Telling(source.description if instructions is None else instructions, formatter),
        "max_sessions": source.max_sessions,
        "one_thread": source.one_thread,
    }
    class_name = re.sub(r"[^A-Za-z0-9_-]+", "_", name or source.name).strip("_") or "OpenEnv"
    return type(class_name, (OpenEnvORSEnvironment,), attributes)


def _typed_tool(source: LocalSource | RemoteSource) -> list[ToolSpec]:
    """The action's schema as a tool's, without the metadata of every action."""
    if source.schema is None:
        return []
    schema = dict(source.schema)
    schema["properties"] = {name: value for name, value in schema["properties"].items() if name != "metadata"}
    return [ToolSpec("step", f"Act in {source.name}. {schema.pop('description', '')}".strip(), schema)]


def _url_of(client: EnvClient[Any, Any, Any]) -> str:
    if client.base_url is None:
        raise ValueError("the client has no URL yet: connect it first, so that its server is started")
    return str(client.base_url)


def _http_url(url: str) -> str:
    return re.sub(r"^ws(s?)://", r"http\1://", url.rstrip("/"))
