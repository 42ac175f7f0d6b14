"""Writing environments with our own base class, and using what is served with every part of the library."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest
from pydantic import BaseModel

from ors_gym import (
    EpisodeRunner,
    ORSClient,
    ScriptedPolicy,
    StopReason,
    TaskRef,
    TextBlock,
    ToolCall,
    ToolOutput,
    ToolSpec,
    run_group,
)
from ors_gym.http import ASGITransport
from ors_gym.types import GroupCandidate, GroupScore, Message, Split, TerminalTool, ToolCallBlock, ToolList
from ors_gym_server import Environment, create_app, terminal, tool
from ors_gym_server.asgi.app import ORSApp
from tests.support.environments import Counter
from tests.support.ors_servers import serve_app
from tests.support.server_environments import Forge


class Amount(BaseModel):
    amount: int = 1


class Tally(Environment):
    """Counts to three."""

    def __init__(self, task_spec: Any, secrets: Any) -> None:
        super().__init__(task_spec, secrets)
        self.count = 0

    @classmethod
    def list_splits(cls) -> list[Split | str]:
        return ["train", Split("held-out", "test")]

    @classmethod
    async def list_tasks(cls, split: str) -> list[dict[str, int]]:
        return [{"from": n} for n in range(3)]

    async def get_messages(self) -> list[Message]:
        call = ToolCallBlock("1", "add", {"amount": 1})
        return [Message("system", (TextBlock("Count."),)), Message("assistant", (call,))]

    @tool
    def add(self, params: Amount) -> ToolOutput:
        """Add to the count."""
        self.count += params.amount
        return ToolOutput((TextBlock(f"{self.count}"),), reward=0.0, finished=self.count >= 3)

    @tool(shared=False)
    async def look(self) -> str:
        """Look at the count."""
        return f"at {self.count}"

    @terminal
    @tool
    async def give_up(self) -> ToolOutput:
        """End it."""
        return ToolOutput(finished=True, metadata={"count": self.count})

    def list_task_tools(self) -> ToolList:
        return ToolList((ToolSpec("look", "Look at the count."),)) if self.task_spec["from"] else ToolList()

    def score_group(self, candidates: Any) -> list[GroupScore | float]:
        return [GroupScore(1.0, {"best": True}), *[0.0 for _ in candidates[1:]]]


class Echo(Environment):
    """Its tools come from schemas, not from methods."""

    running = 0

    @classmethod
    def list_splits(cls) -> list[str]:
        return ["train"]

    @classmethod
    def num_tasks(cls, split: str) -> int:
        return 10**6

    @classmethod
    def get_task(cls, split: str, index: int) -> dict[str, int]:
        return {"n": range(10**6)[index]}

    @classmethod
    def list_tools(cls) -> ToolList:
        schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
        return ToolList((ToolSpec("say-it", "Say it.", schema),))

    def get_prompt(self) -> list[TextBlock]:
        return [TextBlock(str(self.task_spec["n"]), {"bold": True})]

    def call_tool(self, name: str, input: Any) -> ToolOutput:
        assert not self.running
        self.running += 1
        try:
            if name != "say-it":
                return ToolOutput(ok=False, error=f"no {name}", reason="not_found")
            return ToolOutput((TextBlock(input["text"]),), finished=input["text"] == "bye")
        finally:
            self.running -= 1


def talk(app: ORSApp, conversation: Callable[[ORSClient], Any]) -> Any:
    """Hold a conversation with the application, without a socket."""

    async def held() -> Any:
        try:
            async with ORSClient("http://app", transport=ASGITransport(app)) as client:
                return await conversation(client)
        finally:
            await app.aclose()

    return asyncio.run(held())


def test_an_environment_can_be_called_without_a_server():
    tally = Tally({"from": 0}, {})
    assert asyncio.run(tally.call_tool("add", {"amount": 2})).text == "2"  # type: ignore[arg-type]
    assert asyncio.run(tally.call_tool("look", {})).text == "at 2"  # type: ignore[arg-type]
    assert asyncio.run(tally.call_tool("add", {"amount": "x"})).reason == "input_validation"  # type: ignore[arg-type]
    assert asyncio.run(tally.call_tool("subtract", {})).reason == "not_found"  # type: ignore[arg-type]


def test_a_served_environment_is_what_its_class_says():
    async def conversation(client: ORSClient) -> None:
        assert await client.list_splits("tally") == (Split("train", "train"), Split("held-out", "test"))
        tools = await client.list_tools("tally")
        assert tools.names == ("add",)
        assert tools.terminal_tool == TerminalTool("give_up", None, "End it.")
        assert tools.supports_score_group
        assert await client.num_tasks("tally", "train") == 3
        async with client.session("tally", split="train", index=1) as session:
            assert [block.text for block in await session.get_prompt()] == [  # type: ignore[union-attr]
                *("[system]", "Count.", "[assistant]"),
                '[tool_call add] {"amount": 1}',
            ]
            assert (await session.get_messages())[0] == Message("system", (TextBlock("Count."),))
            assert (await session.list_tools()).names == ("add", "look")
            assert (await session.call_tool("look")).text == "at 0"
            assert (await session.call_terminal_tool("done")).metadata == {"count": 0}
            assert (await session.call_tool("add")).reason == "episode_finished"
            candidates = [GroupCandidate((Message("user", (TextBlock("a"),)),))] * 2
            assert await session.score_group(candidates) == (GroupScore(1.0, {"best": True}), GroupScore(0.0))

    talk(create_app([Tally]), conversation)


def test_tools_may_come_from_schemas_and_their_calls_run_one_at_a_time():
    async def conversation(client: ORSClient) -> None:
        assert (await client.get_task("echo", "train", 10**6 - 1)) == {"n": 10**6 - 1}
        async with client.session("echo", split="train", index=7) as session:
            assert await session.get_prompt() == (TextBlock("7", {"bold": True}),)
            said = await asyncio.gather(*(session.call_tool("say-it", {"text": str(n)}) for n in range(9)))
            assert [each.text for each in said] == [str(n) for n in range(9)]
            assert (await session.call_tool("shout")).reason == "not_found"
            assert (await session.call_tool("say-it", {"text": "bye"})).finished
            assert (await session.call_tool("say-it", {"text": "a"})).reason == "episode_finished"

    talk(create_app([Echo]), conversation)


class Base(Environment):
    @classmethod
    def list_splits(cls) -> list[str]:
        return ["train"]

    def get_prompt(self) -> str:
        return ""


def made(**members: Any) -> type[Base]:
    return type("Made", (Base,), members)


def two(self: Any, a: Amount, b: Amount) -> ToolOutput: ...  # type: ignore[empty-body]
def untyped(self: Any, a) -> ToolOutput: ...  # type: ignore[empty-body,no-untyped-def]
def returning(self: Any) -> int: ...  # type: ignore[empty-body]
def good(self: Any, params: Amount) -> ToolOutput: ...  # type: ignore[empty-body]


class Pair(BaseModel):
    a: str
    b: str


def pair(self: Any, params: Pair) -> ToolOutput: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "has no tools"),
        ({"f": two}, "takes 2 arguments"),
        ({"f": untyped}, "must be a Pydantic model"),
        ({"f": returning}, "must be annotated to return ToolOutput"),
        ({"f": pair, "terminal": "f"}, "must have at most one field"),
        ({"f": good, "list_splits": classmethod(lambda cls: [])}, "has no splits"),
        ({"f": good, "get_prompt": Environment.get_prompt}, "has no prompt"),
        ({"name": tool(good)}, r"hides the environment's own name\(\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_a_class_is_said_when_the_server_is_made(members: dict[str, Any], message: str):
    members = {name: tool(fn) if name == "f" else fn for name, fn in members.items()}
    if members.pop("terminal", None):
        members["f"] = terminal(members["f"])
    with pytest.raises((TypeError, ValueError), match=message):
        create_app([made(**members)])


def test_names_are_unique_and_a_server_hosts_something():
    with pytest.raises(ValueError, match="two environments are named 'tally'"):
        create_app([Tally, Tally])
    with pytest.raises(ValueError, match="at least one environment"):
        create_app([])
    with pytest.raises(TypeError, match="is no environment"):
        create_app([Counter({"target": 1})])  # type: ignore[list-item]


def test_the_server_needs_nothing_of_the_reference_sdk():
    code = """
import sys
from ors_gym_server import Environment, create_app, serve, tool
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"openreward", "fastapi", "sse_starlette", "torch", "ray", "trl"}
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )


# -------------------------------------------------------------------- the rest of the library on this server


@pytest.fixture
def url():
    with serve_app(create_app([Counter, Forge])) as running:
        yield running.url


def test_gym_make_plays_on_this_server(url: str):
    env = gym.make("ors_gym/ORS-v0", url=url, env_name="counter", split="train")
    try:
        observation, _ = env.reset(options={"task_index": 2})
        assert "Count to 3" in observation
        assert env.step({"name": "add", "input": {"amount": 3}})[1:3] == (1.0, True)
    finally:
        env.close()


def test_gym_make_vec_plays_on_this_server(url: str):
    envs = gym.make_vec("ors_gym/ORS-v0", url=url, num_envs=8, env_name="counter", split="train", group_size=4)
    try:
        envs.reset(seed=0)
        _, rewards, terminations, _, _ = envs.step([{"name": "add", "input": {"amount": 9}}] * 8)
        assert terminations.all()
        assert (rewards == 0).all()
    finally:
        envs.close()


def test_groups_are_rolled_out_on_this_server(url: str, run: Callable):
    async def conversation() -> Any:
        async with ORSClient(url) as client:
            policy = ScriptedPolicy([ToolCall("add", {"amount": 1})] * 3)
            return await run_group(EpisodeRunner(client, policy), TaskRef("counter", "train", 2), 4)

    group = run(conversation())
    assert [member.stop_reason for member in group.members] == [StopReason.FINISHED] * 4


def test_an_input_model_that_is_made_in_a_function_is_refused_with_what_to_do():
    class Hidden(BaseModel):
        number: int

    class Lab(Environment):
        @tool
        def guess(self, guessed: Hidden) -> ToolOutput:
            """Guess."""
            raise NotImplementedError

    with pytest.raises(TypeError, match=r"tool .*guess cannot be read: name 'Hidden' .*at module level"):
        create_app([Lab])
