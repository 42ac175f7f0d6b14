"""Environments that were written for other SDKs, on our server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import openreward.environments as sdk
import ors
from pydantic import BaseModel

from ors_gym import ORSClient
from ors_gym.http.asgi import ASGITransport
from ors_gym_server import create_app


class Amount(BaseModel):
    n: int


class Kit(ors.Toolset):
    @ors.tool
    async def measure(self) -> ors.ToolOutput:
        return ors.ToolOutput(blocks=[ors.TextBlock(text=f"{self.env.task_spec['n']} cm")])


class Standard(ors.Environment):
    """Written for the package ors-sdk, with a tool whose name is a method of ours."""

    toolsets: ClassVar[list[Any]] = [Kit]

    def __init__(self, task_spec: Any = None, secrets: Any = None) -> None:
        super().__init__(task_spec, secrets)
        self.secrets = secrets

    @classmethod
    def list_splits(cls):
        return ["train", ors.Split(name="held-out", type="test")]

    @classmethod
    def list_tasks(cls, split):
        return [{"n": 1}, {"n": 2}]

    def get_prompt(self):
        return [ors.TextBlock(text=f"{sorted(self.secrets)}")]

    @ors.tool
    def call_tool(self, params: Amount) -> ors.ToolOutput:
        """Add."""
        return ors.ToolOutput(blocks=[ors.TextBlock(text=str(params.n))], reward=1.0, finished=True)


class Dispatcher(sdk.Environment):
    """Written for the reference SDK, with a helper whose name is a method of ours."""

    @classmethod
    def list_splits(cls):
        return ["train"]

    @classmethod
    def list_tasks(cls, split):
        return [{"n": 1}]

    def get_prompt(self):
        return [sdk.TextBlock(text="Dispatch.")]

    async def call_tool(self, server: str, payload: Any) -> Any:
        raise AssertionError("no server calls it")

    @sdk.tool
    async def add(self, params: Amount) -> sdk.ToolOutput:
        """Add."""
        return sdk.ToolOutput(blocks=[sdk.TextBlock(text=str(params.n + 1))], reward=None, finished=False)


def test_a_class_of_the_package_ors_sdk_is_served(run: Callable):
    async def conversation() -> None:
        app = create_app([Standard])
        async with app.lifespan(), ORSClient("http://localhost", transport=ASGITransport(app)) as client:
            assert [split.name for split in await client.list_splits("standard")] == ["train", "held-out"]
            assert sorted((await client.list_tools("standard")).names) == ["call_tool", "measure"]
            async with client.session("standard", split="train", index=1, secrets={"KEY": "v"}) as session:
                assert (await session.call_tool("measure", {})).text == "2 cm"
                output = await session.call_tool("call_tool", {"n": 5})
                assert (output.text, output.reward, output.finished) == ("5", 1.0, True)

    run(conversation())


def test_a_helper_of_an_sdk_class_is_not_taken_for_a_method_of_ours(run: Callable):
    async def conversation() -> None:
        app = create_app([Dispatcher])
        async with app.lifespan(), ORSClient("http://localhost", transport=ASGITransport(app)) as client:
            async with client.session("dispatcher", split="train", index=0) as session:
                assert (await session.call_tool("add", {"n": 1})).text == "2"
                assert (await session.call_tool("call_tool", {})).reason == "not_found"

    run(conversation())
