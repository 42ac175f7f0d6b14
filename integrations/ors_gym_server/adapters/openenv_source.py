"""An OpenEnv environment's name, actions and tasks, read from a class or from a server over HTTP."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, cast, get_type_hints

import httpx
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import ListToolsAction
from openenv.core.env_server.types import Action

from ors_gym.types import Split, Task, ToolSpec
from ors_gym_server.adapters.openenv_episode import AnyOpenEnv, LocalEpisode, RemoteEpisode, RemoteServer

__all__ = ["LocalSource", "OpenEnvTasks", "RemoteSource"]


class OpenEnvTasks(Protocol):
    """OpenEnv's task protocol, with the splits as records."""

    splits: list[Split]

    def num_tasks(self, split: str) -> int:
        """The number of tasks in the split."""
        ...

    def get_task(self, split: str, index: int) -> Any:
        """The environment's own record of a task."""
        ...


def _wait(result: Any) -> Any:
    """The result of a method that may be asynchronous, even inside a running event loop."""
    if not isinstance(result, Awaitable):
        return result
    waiting: Awaitable[Any] = result

    async def wait() -> Any:
        return await waiting

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(wait())).result()


def _is_mcp(schema: Mapping[str, Any]) -> bool:
    """Whether actions are calls of MCP tools: ``CallToolAction``, or the base class without fields."""
    fields = set(schema.get("properties", {})) - {"metadata"}
    return not fields or {"tool_name", "arguments"} <= fields


def _tool_spec(tool: Mapping[str, Any]) -> ToolSpec:
    schema = tool.get("input_schema") or tool.get("inputSchema")
    return ToolSpec(str(tool["name"]), str(tool.get("description") or ""), schema or None)


def _short(name: str) -> str:
    """``GridWorldEnvironment`` → ``GridWorld``: the name on the command line."""
    return name.removesuffix("Environment").removesuffix("Env") or name


def _split(split: Any) -> Split:
    plain = split.model_dump() if hasattr(split, "model_dump") else split
    return Split.from_wire(plain if isinstance(plain, Mapping) else str(plain))


class LocalSource:
    """A class or function that creates environments.

    Raises:
        TypeError: The type of the actions is unknown.
    """

    def __init__(
        self,
        make: Callable[[], AnyOpenEnv],
        action_class: type[Action] | None = None,
        cls: type[AnyOpenEnv] | None = None,
    ) -> None:
        self._make = make
        cls = cls or _class_made_by(make)
        self.max_sessions = None if cls.SUPPORTS_CONCURRENT_SESSIONS else 1
        self.one_thread = bool(cls.REQUIRES_SINGLE_THREAD_EXECUTOR)
        self.name = _short(cls.__name__)
        self.description = inspect.getdoc(cls) or ""
        of_tools = issubclass(cls, MCPEnvironment)
        self.mcp_tools = self._listed_tools() if of_tools else []
        typed = action_class or (None if of_tools else _action_class_of(cls))
        self._action_class: type[Action] = typed or Action
        self.schema = None if typed is None or _is_mcp(typed.model_json_schema()) else typed.model_json_schema()
        """Schema of the typed action; None if all actions are calls of MCP tools."""
        has_tasks = all(callable(getattr(cls, name, None)) for name in ("list_splits", "num_tasks", "get_task"))
        self.tasks: OpenEnvTasks | None = _LocalTasks(make) if has_tasks else None

    def _listed_tools(self) -> list[ToolSpec]:
        env = self._make()
        try:
            listed: Any = env.step(ListToolsAction())
            return [_tool_spec(tool.model_dump()) for tool in listed.tools]
        finally:
            env.close()

    def episode(self) -> LocalEpisode:
        """A new environment, before its reset."""
        return LocalEpisode(self._make, self._action_class)


def _class_made_by(make: Callable[[], AnyOpenEnv]) -> type[AnyOpenEnv]:
    env = make()
    env.close()
    return type(env)


def _action_class_of(cls: type) -> type[Action]:
    annotated = get_type_hints(getattr(cls, "step")).get("action")  # noqa: B009  (an attribute of an unknown class)
    if isinstance(annotated, type) and issubclass(annotated, Action) and annotated is not Action:
        return annotated
    raise TypeError(f"{cls.__name__}.step does not annotate the class of its actions: pass action=…")


class _LocalTasks:
    def __init__(self, make: Callable[[], AnyOpenEnv]) -> None:
        self._make = make
        self.splits = [_split(split) for split in self._ask("list_splits")]

    def num_tasks(self, split: str) -> int:
        return int(self._ask("num_tasks", split))

    def get_task(self, split: str, index: int) -> Any:
        task = self._ask("get_task", split, index)
        return task.model_dump(mode="json") if hasattr(task, "model_dump") else task

    def _ask(self, method: str, *arguments: Any) -> Any:
        env = self._make()
        try:
            return _wait(getattr(env, method)(*arguments))
        finally:
            env.close()


class RemoteSource:
    """A running OpenEnv server.

    Raises:
        ConnectionError: It does not respond, or not as an OpenEnv server.
    """

    max_sessions = None  # the OpenEnv server has its own limit
    one_thread = False

    def __init__(self, server: RemoteServer) -> None:
        self._server = server
        self.schema: Mapping[str, Any] | None = self._get("/schema")["action"]
        metadata = self._get("/metadata")
        self.name, self.description = _short(str(metadata["name"])), str(metadata.get("description") or "")
        self.mcp_tools: Sequence[ToolSpec] = []
        if _is_mcp(self.schema or {}):
            self.schema = None
            answer = self._post("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
            if "error" in answer:
                raise ConnectionError(f"{server.url} lists no tools: {answer['error'].get('message')}")
            self.mcp_tools = [_tool_spec(tool) for tool in answer["result"]["tools"]]
        self.tasks: OpenEnvTasks | None = self._find_tasks()

    def episode(self) -> RemoteEpisode:
        """A new session, before its reset."""
        return RemoteEpisode(self._server)

    def _find_tasks(self) -> _RemoteTasks | None:
        names = self._send("GET", "/list_environments")
        if not names.is_success:
            return None
        splits = self._send("GET", f"/{names.json()[0]}/splits")
        return _RemoteTasks(self._post, names.json()[0], splits.json()) if splits.is_success else None

    def _get(self, path: str) -> Any:
        return self._answer("GET", path)

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._answer("POST", path, body)

    def _answer(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        response = self._send(method, path, body)
        if not response.is_success:
            status = f"{response.status_code} {response.reason_phrase}"
            raise ConnectionError(f"{self._server.url} is not an OpenEnv server: {path} answered {status}")
        return response.json()

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        try:
            with httpx.Client(headers=dict(self._server.headers or {}), timeout=30.0) as client:
                return client.request(method, self._server.url + path, json=None if body is None else dict(body))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ConnectionError(f"no OpenEnv server answers at {self._server.url} ({reason})") from None


class _RemoteTasks:
    def __init__(self, post: Callable[[str, Mapping[str, Any]], Any], name: str, splits: Sequence[Any]) -> None:
        self._post, self._name = post, name
        self.splits = [_split(split) for split in splits]

    def num_tasks(self, split: str) -> int:
        return int(self._post(f"/{self._name}/num_tasks", {"split": split})["num_tasks"])

    def get_task(self, split: str, index: int) -> Task:
        return cast("Task", self._post(f"/{self._name}/task", {"split": split, "index": index})["task"])
