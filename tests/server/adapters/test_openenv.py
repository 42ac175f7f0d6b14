"""OpenEnv environments as ORS environments: in this process, and on OpenEnv's own server."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack

import pytest

pytest.importorskip("openenv")

from openenv.core.env_server import create_fastapi_app
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation
from openenv.core.generic_client import GenericEnvClient

from ors_gym import ORSClient
from ors_gym.client.timeouts import Timeouts
from ors_gym.errors import ORSError, StatusError
from ors_gym.types import ImageBlock, Split, TextBlock, text_of
from ors_gym_server import create_app, from_openenv
from tests.support.openenv_environments import (
    EchoEnvironment,
    QuizAction,
    QuizEnvironment,
    QuizObservation,
    WalkAction,
    WalkEnvironment,
    WalkObservation,
    WalkState,
)
from tests.support.ors_servers import serve_app

MODELS = {
    "walk": (WalkEnvironment, WalkAction, WalkObservation, WalkState, 8),
    "quiz": (QuizEnvironment, QuizAction, QuizObservation, None, 1),
    "echo": (EchoEnvironment, CallToolAction, CallToolObservation, None, 8),
}


@pytest.fixture(scope="module")
def openenv_urls():
    """OpenEnv's server with each of the environments."""
    with ExitStack() as stack:
        urls = {}
        for name, (cls, action, observation, state, sessions) in MODELS.items():
            options = {} if state is None else {"state_cls": state}
            app = create_fastapi_app(
                cls, action, observation, max_concurrent_envs=sessions, env_name=name, mode="simulation", **options
            )
            running = stack.enter_context(serve_app(app, ws="websockets-sansio"))
            urls[name] = running.url
        yield urls


@pytest.fixture(params=["class", "url", "client"])
def ported(request, openenv_urls):
    """Port the environment called so: its class, its server's URL, a client of its server."""

    def port(name, **options):
        cls, action = MODELS[name][:2]
        match request.param:
            case "class":
                return from_openenv(cls, action=action if name == "quiz" else None, name=name, **options)
            case "url":
                return from_openenv(openenv_urls[name], name=name, **options)
            case _:
                return from_openenv(GenericEnvClient(openenv_urls[name]), name=name, **options)

    return port


def converse(run, environment, conversation):
    """Serve the port, and hold a conversation with it."""

    async def talk(url):
        async with ORSClient(url) as client:
            return await conversation(client)

    with serve_app(create_app([environment])) as running:
        return run(talk(running.url))


def test_a_typed_action_is_the_tool_step_with_its_schema(ported):
    (tool,) = ported("walk").list_tools()
    assert tool.name == "step"
    assert "Walk along the line." in tool.description
    properties = tool.parameters["properties"]
    assert list(properties) == ["direction", "steps"]  # what every action has as metadata is left out
    assert properties["direction"]["enum"] == ["left", "right"]
    assert (properties["steps"]["minimum"], properties["steps"]["maximum"]) == (1, 3)
    assert tool.parameters["required"] == ["direction"]


def test_an_episode_goes_as_in_the_environment_itself(run, ported):
    itself = WalkEnvironment()
    itself.reset(seed=1)

    async def conversation(client):
        async with client.session("walk", split="train", index=1) as session:
            prompt = text_of(await session.get_prompt())
            assert prompt.endswith("place: 0\nview: [-1, 1]")
            for steps in (1, 3, 1):
                direction = "left" if steps == 1 and itself.place > 1 else "right"
                output = await session.call_tool("step", {"direction": direction, "steps": steps})
                expected = itself.step(WalkAction(direction=direction, steps=steps))
                assert output.text == f"place: {expected.place}\nview: {expected.view}"
                assert (output.reward, output.finished) == (expected.reward, expected.done)
                assert output.metadata["state"]["goal"] == 3
                assert output.metadata["state"]["step_count"] == itself.count
            assert output.finished

    converse(run, ported("walk"), conversation)


def test_an_invalid_action_is_refused_and_the_episode_continues(run, ported):
    async def conversation(client):
        async with client.session("walk", split="train", index=0) as session:
            for wrong, said in [
                ({"direction": "up"}, "'up' is not one of"),
                ({}, "'direction' is a required property"),
                ({"direction": "left", "steps": 9}, "9 is greater than the maximum of 3"),
            ]:
                refused = await session.call_tool("step", wrong)
                assert (refused.ok, refused.reason) == (False, "input_validation")
                assert said in refused.text
            assert (await session.call_tool("jump", {})).reason == "not_found"
            output = await session.call_tool("step", {"direction": "right"})
            assert output.metadata["state"]["step_count"] == 1

    converse(run, ported("walk"), conversation)


def test_tasks_without_a_protocol_are_seeds_and_options_of_reset(run, ported):
    splits = {"train": range(5), "test": [{"seed": 7, "options": {"start": 2}}]}
    environment = ported("walk", splits=splits)
    assert environment.get_task("train", 3) == {"id": "train-3", "seed": 3}

    async def conversation(client):
        async with client.session("walk", split="test", index=0) as session:
            assert text_of(await session.get_prompt()).endswith("place: 2\nview: [1, 3]")

    converse(run, environment, conversation)


def test_the_task_protocol_gives_splits_and_tasks(run, ported):
    environment = ported("quiz")

    async def conversation(client):
        assert await client.list_splits("quiz") == (Split("train", "train"), Split("exam", "test"))
        assert await client.num_tasks("quiz", "train") == 3
        assert await client.get_task("quiz", "train", 2) == {"split": "train", "index": 2, "task": {"a": 2, "b": 1}}
        async with client.session("quiz", split="exam", index=0) as session:
            assert text_of(await session.get_prompt()).endswith("text: What is 0 + 100?")
            output = await session.call_tool("step", {"answer": 100})
            assert (output.text, output.reward, output.finished) == ("text: Right!", 1.0, True)

    converse(run, environment, conversation)


def test_a_session_too_many_is_refused_with_429_until_there_is_room(run, ported):
    environment = ported("quiz")

    async def conversation(client):
        impatient = ORSClient(client.url, timeouts=Timeouts(capacity_seconds=0.01))
        async with impatient, client.session("quiz", split="train", index=0) as first:
            await first.get_prompt()
            with pytest.raises(StatusError, match="429"):
                await impatient.session("quiz", split="train", index=1).open()
            assert (await first.call_tool("step", {"answer": 1})).reward == 1.0
        async with client.session("quiz", split="train", index=1) as second:
            assert text_of(await second.get_prompt()).endswith("What is 1 + 1?")

    converse(run, environment, conversation)


def test_an_environment_that_wants_one_thread_gets_one(run):
    threads = set()

    class Bound(WalkEnvironment):
        """Notes where it runs."""

        REQUIRES_SINGLE_THREAD_EXECUTOR = True

        def __init__(self):
            super().__init__()
            threads.add(threading.get_ident())

        def reset(self, seed=None, episode_id=None, start=0):
            threads.add(threading.get_ident())
            return super().reset(seed, episode_id, start)

        def step(self, action: WalkAction, timeout_s=None, **kwargs):
            threads.add(threading.get_ident())
            return super().step(action)

        def close(self):
            threads.add(threading.get_ident())

    async def episode(client, index):
        async with client.session("bound", split="train", index=index) as session:
            return (await session.call_tool("step", {"direction": "right"})).text

    async def conversation(client):
        return await asyncio.gather(*(episode(client, index) for index in range(4)))

    told = converse(run, from_openenv(Bound), conversation)
    assert told == ["place: 1\nview: [0, 2]"] * 4
    assert len(threads) == 1


def test_mcp_tools_are_tools_of_their_own_with_the_environment_rewards(run, ported):
    environment = ported("echo")
    assert environment.list_tools().names == ("echo", "draw")
    echo = environment.list_tools()[0]
    assert echo.description == "Say the message again."
    assert echo.parameters["required"] == ["message"]

    async def conversation(client):
        async with client.session("echo", split="train", index=0) as session:
            said = await session.call_tool("echo", {"message": "ha", "times": 2})
            assert (said.text, said.reward, said.finished) == ("haha", 2.0, False)
            drawn = await session.call_tool("draw")
            assert drawn.text == "a dot"
            assert [type(block) for block in drawn.blocks] == [TextBlock, ImageBlock]
            tired = await session.call_tool("echo", {"message": "ha", "times": 9})
            assert tired.ok
            assert "that is tiring" in tired.text
            refused = await session.call_tool("echo", {"times": 1})
            assert refused.reason == "input_validation"
            last = await session.call_tool("echo", {"message": "ha", "times": 3})
            assert (last.reward, last.finished) == (5.0, True)

    converse(run, environment, conversation)


def test_an_environment_that_fails_fails_the_call_and_not_the_agent(run, ported):
    async def conversation(client):
        async with client.session("walk", split="train", index=0) as session:
            for _ in range(4):
                await session.call_tool("step", {"direction": "left", "steps": 3})
            with pytest.raises(ORSError, match="fell off the line"):
                await session.call_tool("step", {"direction": "left"})

    converse(run, ported("walk"), conversation)


def test_a_formatter_and_instructions_of_ones_own_are_used(run, ported):
    environment = ported("walk", formatter=lambda seen: f"at {seen['place']}", instructions="Go.")

    async def conversation(client):
        async with client.session("walk", split="train", index=0) as session:
            assert text_of(await session.get_prompt()) == "Go.\n\nat 0"
            output = await session.call_tool("step", {"direction": "right"})
            assert output.text == "at 1"

    converse(run, environment, conversation)


def test_a_lost_connection_fails_the_episode_and_does_not_begin_another(run):
    cls, action, observation, state, sessions = MODELS["walk"]
    app = create_fastapi_app(cls, action, observation, max_concurrent_envs=sessions, mode="simulation", state_cls=state)

    async def conversation(environment):
        episode = environment({"seed": 0})
        await episode.setup()
        await episode.call_tool("step", {"direction": "right"})
        await episode._episode._client._ws.close()  # as a server does that goes away
        with pytest.raises(RuntimeError, match="connection to the OpenEnv server was lost"):
            await episode.call_tool("step", {"direction": "right"})
        await episode.teardown()

    with serve_app(app, ws="websockets-sansio") as running:
        run(conversation(from_openenv(running.url)))


def test_a_url_without_an_openenv_server_is_reported():
    with pytest.raises(ConnectionError, match=r"no OpenEnv server answers at http://127.0.0.1:1 "):
        from_openenv("http://127.0.0.1:1")
    with serve_app(create_app([from_openenv(WalkEnvironment)])) as running:
        with pytest.raises(ConnectionError, match=r"is not an OpenEnv server: /schema answered 404"):
            from_openenv(running.url)


def test_a_class_without_annotated_actions_is_refused_with_a_remedy():
    class Vague(WalkEnvironment):
        def step(self, action, timeout_s=None, **kwargs):
            return super().step(action)

    with pytest.raises(TypeError, match=r"pass action="):
        from_openenv(Vague)
    assert from_openenv(Vague, action=WalkAction, length=3).list_tools().names == ("step",)
