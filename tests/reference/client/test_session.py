"""Sessions on a healthy reference server: the whole protocol, every character intact."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ors_gym.client.client import ORSClient, Session, SessionState
from ors_gym.client.portal import Portal
from ors_gym.errors import (
    AmbiguousCallError,
    NotFoundError,
    ProtocolError,
    SessionClosedError,
    SessionLostError,
    ToolFailedError,
)
from ors_gym.types import GroupCandidate, ImageBlock, Message, TextBlock
from tests.support.environments import Counter, Essay, Ledger, Mirror
from tests.support.faulty_proxy import FaultyProxy
from tests.support.ors_servers import RunningServer, serve, server_loop


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serve(Counter, Mirror, Ledger, Essay) as running:
        yield running
        assert running.live_sessions == {}


@pytest.fixture(scope="module")
def mirror(server: RunningServer) -> Iterator[Callable[..., Any]]:
    """Call ``give`` in a session that all examples share."""
    with Portal() as portal:
        session = portal.client(server.url).session("mirror", task={})
        portal.run(session.open())
        yield lambda **given: portal.run(session.call_tool("give", given))
        portal.run(session.close())


TEXT = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("  \t\r\n:\u2028\u2029\u0085\u000b\u000c\u001c\u3000\u00a0\ufeff\u0000\U0001f600"),
    ),
    max_size=60,
)
# Long runs put the reference server's cut, every 4,096 characters, before, inside and after every kind of character.
LONG = st.builds(lambda text, times, tail: text * times + tail, TEXT, st.integers(0, 400), TEXT)
INTEGERS = st.integers(-(2**53), 2**53)
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
IMAGES = st.binary(max_size=9000).map(lambda data: base64.b64encode(data).decode())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(LONG, IMAGES, st.none() | st.dictionaries(TEXT, JSON, max_size=3), st.none() | FLOATS, st.booleans())
@example(" " * 20_000, "", None, 0.0, False)
@example("x" * 4000 + " " * 500 + "\u2028" * 3000, "", {" ": "\u0085"}, None, False)
def test_text_images_metadata_and_rewards_arrive_as_they_were_given(mirror, text, image, metadata, reward, ok):
    blocks = [{"type": "text", "text": text}, {"type": "image", "data": image, "mimeType": "image/png"}]
    output = mirror(blocks=blocks, reward=reward, metadata=metadata)
    assert output.ok
    assert output.blocks == (TextBlock(text), ImageBlock(image, "image/png"))
    assert output.reward == reward
    assert output.metadata == metadata


def test_source_code_arrives_as_it_was_written(mirror):
    folder = Path(asyncio.__file__).parent
    sources = [file.read_text() for file in sorted(folder.glob("*.py"))]
    assert sum(len(source) > 4096 for source in sources) > 15
    for source in sources:
        assert mirror(blocks=[{"type": "text", "text": source}]).text == source


def test_a_megabyte_arrives_whole(mirror):
    text = "".join(f"{number:>12}\u3000\n" for number in range(80_000))
    assert mirror(blocks=[{"type": "text", "text": text}]).text == text


@settings(max_examples=30, deadline=None)
@given(LONG)
def test_a_task_and_its_prompt_arrive_as_they_were_given(server, text):
    async def conversation() -> str:
        async with ORSClient(server.url) as client, client.session("mirror", task={"text": text}) as session:
            (block,) = await session.get_prompt()
            assert isinstance(block, TextBlock)
            return block.text

    assert asyncio.run(conversation()) == text


def converse(server: RunningServer, conversation: Callable[[Session], Any], env: str = "counter", **task: Any) -> Any:
    async def run() -> Any:
        async with ORSClient(server.url) as client:
            async with client.session(env, **(task or {"split": "train", "index": 2})) as session:
                return await conversation(session)

    return asyncio.run(run())


def test_an_episode_from_prompt_to_end(server):
    async def conversation(session: Session) -> None:
        assert session.state is SessionState.OPEN
        assert session.id in server.live_sessions
        assert await session.get_prompt() == (TextBlock("Count to 3."),)
        assert await session.get_messages() == (Message("user", (TextBlock("Count to 3."),)),)
        first = await session.call_tool("add")
        assert (first.text, first.reward, first.finished, session.finished) == ("count 1", None, False, False)
        last = await session.call_tool("add", {"amount": 2})
        assert (last.text, last.reward, last.finished, session.finished) == ("count 3", 1.0, True, True)

    converse(server, conversation)


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        ("nope", {}, "not_found"),
        ("add", {"amount": "many"}, "input_validation"),
        ("add", {"amount": float("nan")}, "input_validation"),
        ("echo", {"text": "half a pair: \ud800"}, "input_validation"),
    ],
)
def test_the_agents_mistakes_are_observations_and_the_session_continues(server, name, given, reason):
    async def conversation(session: Session) -> None:
        output = await session.call_tool(name, given)
        assert (output.ok, output.reason, output.reward) == (False, reason, None)
        assert output.text
        assert (await session.call_tool("add")).ok

    converse(server, conversation)


def test_a_call_after_the_end_is_refused_by_the_environment(server):
    async def conversation(session: Session) -> None:
        await session.call_tool("add", {"amount": 3})
        assert (await session.call_tool("add")).reason == "episode_finished"

    converse(server, conversation)


def test_an_input_that_is_not_a_mapping_is_the_callers_mistake(server):
    async def conversation(session: Session) -> None:
        with pytest.raises(TypeError, match="mapping"):
            await session.call_tool("add", [1])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="JSON"):
            await session.call_tool("add", {"amount": object()})

    converse(server, conversation)


def test_a_session_has_its_own_tools(server):
    async def conversation(session: Session) -> None:
        tools = await session.list_tools()
        assert set(tools.names) == {"give", "task_only"}
        assert tools.terminal_tool is not None
        assert tools.terminal_tool.name == "submit"
        assert tools.supports_score_group

    converse(server, conversation, "mirror", task={})


def test_the_final_message_goes_to_the_terminal_tool(server):
    async def conversation(session: Session) -> None:
        output = await session.call_terminal_tool("  my answer\n")
        assert (output.text, output.finished) == ("  my answer\n", True)

    converse(server, conversation, "mirror", task={})


def test_the_terminal_tools_name_is_requested_once_for_all_sessions(server):
    async def run() -> int:
        async with FaultyProxy(server.url) as proxy, ORSClient(proxy.url) as client:
            assert len(await client.list_tools("essay")) == 0
            for _ in range(3):
                async with client.session("essay", task={}) as session:
                    assert (await session.call_terminal_tool("an essay")).text == "thank you"
            return proxy.count("tools")

    assert asyncio.run(run()) == 1


def test_an_environment_without_a_terminal_tool_has_a_clear_error(server):
    async def conversation(session: Session) -> None:
        with pytest.raises(ValueError, match="no terminal tool"):
            await session.call_terminal_tool("answer")

    converse(server, conversation)


def test_messages_come_with_their_roles(server):
    async def conversation(session: Session) -> None:
        assert [message.role for message in await session.get_messages()] == ["system", "user"]

    converse(server, conversation, "mirror", task={"text": "hello"})


def test_a_group_is_scored_and_a_failed_judge_leaves_the_session_open(server):
    async def conversation(session: Session) -> None:
        messages = (Message("user", (TextBlock("?"),)), Message("assistant", (TextBlock("abc"),)))
        scores = await session.score_group([messages, GroupCandidate(messages[:1], {"member": 1})])
        assert [(score.reward, score.metadata) for score in scores] == [(3.0, {"of": 2}), (1.0, {"of": 2})]
        with pytest.raises(ToolFailedError, match="an empty candidate"):
            await session.score_group([()])
        assert session.state is SessionState.OPEN
        assert (await session.call_tool("give", {"blocks": []})).ok

    converse(server, conversation, "mirror", task={})


def test_unsupported_scoring_is_refused_and_the_session_continues(server):
    async def conversation(session: Session) -> None:
        with pytest.raises(NotFoundError, match="does not implement score_group"):
            await session.score_group([()])
        assert (await session.call_tool("add")).ok

    converse(server, conversation)


def test_different_tools_of_a_session_run_at_once(server):
    async def conversation(session: Session) -> None:
        outputs = await asyncio.gather(
            *(session.call_tool("work", {"key": "gather", "text": str(n)}) for n in range(20))
        )
        assert [output.text for output in outputs] == [str(n) for n in range(20)]

    converse(server, conversation, "ledger", task={})


def test_secrets_reach_the_environment(server):
    async def run() -> None:
        secrets = {"TOKEN": "s3cr3t-value", "OTHER": ("another-value", ["example.org"])}
        async with ORSClient(server.url) as client:
            async with client.session("ledger", task={}, secrets=secrets) as session:
                environment = server.live_sessions[session.id]
                assert environment.secrets == {"TOKEN": "s3cr3t-value", "OTHER": "another-value"}

    asyncio.run(run())


@pytest.mark.parametrize("ended", [False, True])
def test_a_session_outside_its_block_says_why_it_cannot_be_used(server, ended):
    async def run() -> None:
        async with ORSClient(server.url) as client:
            session = client.session("counter", split="train", index=0)
            if ended:
                async with session:
                    pass
            with pytest.raises(SessionClosedError, match="closed" if ended else "new"):
                await session.call_tool("add")
            await session.close()
            await session.close()
            with pytest.raises(SessionClosedError, match="opened once"):
                await session.open()

    asyncio.run(run())


@pytest.mark.parametrize(
    "task", [{}, {"split": "train"}, {"index": 0}, {"task": {}, "index": 0}, {"task": {}, "split": "s", "index": 0}]
)
def test_a_session_needs_one_task(server, task):
    with pytest.raises(ValueError, match="either split and index, or a task"):
        ORSClient(server.url).session("counter", **task)


def test_an_episode_sends_no_request_too_many(server):
    async def run() -> list[str]:
        async with FaultyProxy(server.url) as proxy, ORSClient(proxy.url) as client:
            for _ in range(2):
                async with client.session("Counter", split="train", index=4) as session:
                    await session.get_prompt()
                    for _ in range(3):
                        await session.call_tool("add")
            return [request.path for request in proxy.requests]

    episode = ["/create_session", "/create", "/counter/prompt", *["/counter/call"] * 3, "/delete", "/delete_session"]
    assert asyncio.run(run()) == ["/list_environments", *episode, *episode]


def test_a_client_serves_one_event_loop_and_refuses_others(server):
    client = ORSClient(server.url)
    with asyncio.Runner() as runner:
        assert runner.run(client.health())
        with pytest.raises(RuntimeError, match="one client for each loop"):
            asyncio.run(client.health())
        runner.run(client.aclose())


def test_a_closed_client_opens_no_session(server):
    async def run() -> None:
        async with ORSClient(server.url) as client:
            pass
        with pytest.raises(SessionClosedError, match="the client is closed"):
            await client.session("counter", split="train", index=0).open()

    asyncio.run(run())


def test_pings_and_deletions_do_not_wait_behind_calls(server):
    async def run() -> None:
        async with ORSClient(server.url, max_connections=1) as client:
            session = client.session("ledger", task={})
            await session.open()
            call = asyncio.create_task(session.call_tool("work", {"key": "limit", "held": True}))
            await asyncio.to_thread(Ledger.started["limit"].wait, 10)
            await session.ping()
            await session.close()
            server_loop().loop.call_soon_threadsafe(Ledger.released["limit"].set)
            assert (await call).text == "done"

    asyncio.run(run())


def test_connections_are_used_again(server):
    async def run() -> int:
        async with ORSClient(server.url) as client, client.session("counter", split="train", index=4) as session:
            for _ in range(20):
                await session.call_tool("look")
            return len(client.connection.sender.transport._open)  # type: ignore[attr-defined]

    assert asyncio.run(run()) == 1


def test_lost_and_ambiguous_are_session_errors_to_catch_together():
    from ors_gym.errors import SessionError

    assert issubclass(SessionLostError, SessionError)
    assert issubclass(AmbiguousCallError, SessionError)
    assert not issubclass(ProtocolError, SessionError)
