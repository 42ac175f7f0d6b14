"""ors-gym environments on the reference SDK's server. The only module that needs ``openreward``."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

from ors_gym.http.answers import RefusedError
from ors_gym_server.authoring.environment import Environment
from ors_gym_server.runtime.episode import EnvironmentInstance
from ors_gym_server.runtime.hosting import HostedEnvironment
from ors_gym_server.threads import SessionThreads

__all__ = ["as_openreward"]

T = TypeVar("T")


def as_openreward(cls: type[Environment]) -> type:
    """An ors-gym class as one for ``openreward.environments.Server``, with the same name, tools and results.

    ::

        from openreward.environments import Server

        Server([as_openreward(FrozenLake)]).run()

    The server determines one difference: the constructor runs at the start of ``setup``, so its failure is returned by
    the first request that needs the session, not by ``/create``.

    Raises:
        ImportError: the reference SDK is not installed (``pip install openreward``).
        TypeError, ValueError: the class is invalid.
    """
    from openreward.environments import Environment as SDKEnvironment
    from openreward.environments import ImageBlock, ListToolsOutput, Message, RunToolOutput, Split, TextBlock
    from openreward.environments.types import GroupScore, RunToolSuccess
    from pydantic import TypeAdapter

    hosted = HostedEnvironment(cls, SessionThreads())
    blocks = TypeAdapter(list[TextBlock | ImageBlock])
    messages = TypeAdapter(list[Message])
    scores = TypeAdapter(dict[str, list[GroupScore]])
    tools = ListToolsOutput.model_validate(hosted.tools)

    class Adapted(SDKEnvironment):  # type: ignore[misc]  # the SDK ships no types
        def __init__(
            self, task_spec: Mapping[str, Any] | None = None, secrets: Mapping[str, str] | None = None
        ) -> None:
            super().__init__(task_spec or {}, dict(secrets or {}))
            self._secrets = secrets or {}
            self._episode = EnvironmentInstance(hosted)
            self._begun = False
            self._beginning = asyncio.Lock()

        @classmethod
        def name(cls) -> str:
            return str(hosted.cls.name())

        @classmethod
        def list_splits(cls) -> list[Any]:
            return [Split(**split) for split in hosted.splits]

        @classmethod
        async def list_tasks(cls, split: str) -> Sequence[Any]:
            return await _answered(hosted.all_tasks(split))

        @classmethod
        async def num_tasks(cls, split: str) -> int:
            return await _answered(hosted.num_tasks(split))

        @classmethod
        async def get_task(cls, split: str, index: int) -> Any:
            return await _answered(hosted.get_task(split, index))

        @classmethod
        async def get_task_range(cls, split: str, start: int | None = None, stop: int | None = None) -> list[Any]:
            return await _answered(hosted.get_task_range(split, start, stop))

        @classmethod
        @functools.cache
        def list_tools(cls) -> Any:
            return tools

        async def _made(self) -> Any:
            async with self._beginning:
                if not self._begun:
                    await _answered(self._episode.begin(self.task_spec, self._secrets, None))
                    self._begun = True
            return self._episode

        async def setup(self) -> None:
            await (await self._made()).setup()

        async def teardown(self) -> None:
            await self._episode.end(patience_seconds=10.0)

        async def get_prompt(self) -> Any:
            return blocks.validate_json(await (await self._made()).prompt())

        async def get_messages(self) -> Any:
            return messages.validate_json(await (await self._made()).messages())

        async def list_task_tools(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # it is awaited
            listed = ListToolsOutput.model_validate_json(await (await self._made()).tools())
            known = {tool.name for tool in tools.tools}
            return ListToolsOutput(tools=[tool for tool in listed.tools if tool.name not in known])

        async def _call_tool(self, name: str, input: Mapping[str, Any]) -> Any:
            output = RunToolOutput.model_validate_json(await self._episode.call(name, input))
            if isinstance(output.root, RunToolSuccess) and output.root.output.finished:
                self._episode_finished = True  # for tools of a toolset that the client selected
            return output

    if hosted.implements("score_group"):

        async def score_group(self: Any, candidates: Sequence[Any]) -> Any:
            text = await self._episode.score_group([candidate.model_dump() for candidate in candidates])
            return scores.validate_json(text)["scores"]

        Adapted.score_group = score_group
    Adapted.__name__ = Adapted.__qualname__ = cls.__name__
    Adapted.__doc__ = cls.__doc__
    return Adapted


async def _answered(work: Awaitable[T]) -> T:
    """Await ors-gym code, and raise its refusals as the reference SDK's server does."""
    try:
        return await work
    except RefusedError as refused:
        from fastapi import HTTPException

        raise HTTPException(refused.status, refused.detail) from refused
