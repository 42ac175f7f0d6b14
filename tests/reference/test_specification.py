"""A server in another language, written from the specification alone, minimal and whole, through every door."""

from __future__ import annotations

import asyncio
import json

import gymnasium as gym
import numpy as np
import pytest

from ors_gym import EpisodeRunner, ORSClient, TaskRef, run_groups
from ors_gym.cli.main import main
from ors_gym.errors import StatusError
from ors_gym.policies.policy import Reply
from ors_gym.testing import Outcome, check_server
from ors_gym.types import TextBlock, ToolCall
from tests.support.node_server import NodeServer, node_server

ADD = {"name": "add", "input": {"amount": 3}}


@pytest.fixture(scope="module", params=["minimal", "whole"])
def server(request):
    with node_server(request.param) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_session_is_left(server: NodeServer):
    yield
    assert server.left == 0


def test_the_client_plays_an_episode(server):
    async def conversation() -> None:
        async with ORSClient(server.url) as client:
            assert await client.health()
            assert await client.list_environments() == ("counting",)
            (split,) = await client.list_splits("counting")
            assert (split.name, split.type) == ("train", "train")
            assert await client.num_tasks("counting", "train") == 4
            assert await client.get_task("counting", "train", 1) == {"target": 4}
            async with client.session("counting", split="train", index=0, secrets={"KEY": "v"}) as session:
                (prompt,) = await session.get_prompt()
                assert prompt == TextBlock("Count to 3 exactly.")
                assert [message.role for message in await session.get_messages()] == ["user"]
                assert (await session.list_tools()).names == ("add", "show_key")
                await session.ping()
                assert (await session.call_tool("show_key")).text == "the key is here"
                assert not (await session.call_tool("add", {"amount": 9})).ok
                assert not (await session.call_tool("fly", {})).ok
                output = await session.call_tool("add", {"amount": 3})
                assert (output.reward, output.finished) == (1.0, True)
                assert not (await session.call_tool("add", {"amount": 1})).ok

    asyncio.run(conversation())


def test_what_does_not_exist_is_refused_and_leaves_nothing(server):
    async def conversation() -> None:
        async with ORSClient(server.url) as client:
            with pytest.raises(StatusError):
                await client.num_tasks("counting", "nowhere")
            with pytest.raises(StatusError):
                await client.session("counting", split="train", index=99).open()
            assert not await client.delete_session("counting", "never-was")

    asyncio.run(conversation())


def test_gymnasium_plays_it(server):
    env = gym.make("ors_gym/ORS-v0", url=server.url, env_name="counting")
    _, info = env.reset(options={"task_index": 0})
    assert info["task"].index == 0
    *_, reward, terminated, truncated, info = env.step({"name": "add", "input": {"amount": 9}})
    assert (reward, terminated, info["reason"] in ("refused", "input_validation")) == (0.0, False, True)
    *_, reward, terminated, truncated, info = env.step(ADD)
    assert (reward, terminated, truncated) == (1.0, True, False)
    env.close()


def test_a_vector_environment_plays_it(server):
    envs = gym.make_vec("ors_gym/ORS-v0", num_envs=4, url=server.url, env_name="counting")
    envs.reset(seed=1, options={"task_index": [0, 0, 3, 3]})
    _, rewards, terminations, _, _ = envs.step([ADD] * 4)
    assert terminations.tolist() == [True, True, False, False]
    assert np.array_equal(rewards, [1.0, 1.0, 0.0, 0.0])
    envs.close()


class Adds:
    """Adds three in each turn."""

    async def act(self, turn) -> Reply:
        return Reply(tool_calls=(ToolCall("add", {"amount": 3}),))


def test_the_runner_plays_groups_of_it(server):
    async def conversation() -> list[float | None]:
        async with ORSClient(server.url) as client:
            runner = EpisodeRunner(client)
            tasks = [TaskRef("counting", "train", index) for index in (0, 3)]
            returns = []
            async for group in run_groups(runner, tasks, 2, policy=Adds()):
                returns += [sum(each.output.reward or 0 for each in member.transitions) for member in group.members]
            return sorted(returns)

    assert asyncio.run(conversation()) == [1.0, 1.0, 1.0, 1.0]


def test_the_command_line_lists_checks_and_rolls_it_out(server, capsys):
    assert main(["list", server.url]) == 0
    assert "train  4 tasks" in capsys.readouterr().out
    assert main(["check", server.url, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]
    assert main(["rollout", server.url, "--episodes", "4", "--timeout", "30"]) == 0


def test_the_conformance_kit_tells_required_from_recommended(server):
    report = asyncio.run(check_server(server.url))
    assert report.ok, report
    missing = {check.name for check in report.checks if check.outcome is not Outcome.PASS}
    minimal = "num_tasks" in missing
    assert missing >= {"prompt_is_not_stored", "client_task_ids"}
    assert ("ping" in missing) is minimal
    assert ("tool_descriptions" in missing) is minimal
