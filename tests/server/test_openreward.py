"""Our environments on the reference SDK's own server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from ors_gym import ORSClient
from ors_gym.errors import ToolFailedError
from ors_gym.testing import check_server
from ors_gym_server import as_openreward, create_app
from tests.support.ors_servers import serve, serve_app
from tests.support.server_environments import Forge

pytestmark = pytest.mark.usefixtures("forget")


async def episode(url: str) -> list:
    async with ORSClient(url) as client, client.session("forge", split="train", index=0) as session:
        said = [await client.list_splits("forge"), await client.list_tools("forge"), await session.get_prompt()]
        said += [await session.get_messages(), (await session.list_tools()).names]
        said += [await session.call_tool("hit", {"text": "  iron\u2028 "}), await session.call_tool("nope")]
        said += [
            (await session.call_tool("hit", {"text": 3})).reason,
            await session.call_tool("reward", {"reward": "2"}),
        ]
        with pytest.raises(ToolFailedError, match="nan"):
            await session.call_tool("reward", {"reward": "nan"})
    return said


def test_an_environment_of_ours_answers_the_same_on_the_reference_server(run: Callable):
    with serve(as_openreward(Forge)) as theirs, serve_app(create_app([Forge])) as ours:
        assert run(episode(theirs.url)) == run(episode(ours.url))
        assert not theirs.live_sessions
    assert Forge.log == ["teardown of plain"] * 2


def test_it_passes_the_conformance_kit_there(run: Callable):
    Forge.released["setup"].set()  # of the second task, which the kit opens too
    with serve(as_openreward(Forge)) as theirs:
        report = run(check_server(theirs.url))
    assert report.ok, [check for check in report.checks if check.outcome != "pass"]


def test_its_synchronous_methods_share_one_thread_there_too(run: Callable):
    async def conversation(url: str) -> str:
        async with ORSClient(url) as client, client.session("forge", split="train", index=0) as session:
            Forge.released["iron"].set()
            return (await session.call_tool("grip", {"text": "iron"})).text

    with serve(as_openreward(Forge)) as theirs:
        assert run(conversation(theirs.url)) == "True"


def test_a_class_that_cannot_be_served_is_refused_when_it_is_made():
    with pytest.raises(TypeError, match="is no environment"):
        as_openreward(asyncio.Event)  # type: ignore[arg-type]
