"""Tool calls on our server: at most once, whole, and bounded in what they leave behind."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ors_gym import ORSClient, Timeouts
from ors_gym.errors import ToolFailedError
from ors_gym.http.sse import EventDecoder
from ors_gym_server import Limits, create_app
from ors_gym_server.asgi.app import ORSApp
from ors_gym_server.authoring.tools import CallOrder
from ors_gym_server.runtime.calls import CUT, Results, error_events, result_events
from ors_gym_server.runtime.scheduling import CallScheduler
from tests.support.faulty_proxy import Fault, FaultyProxy, ProxiedRequest
from tests.support.forge import forge
from tests.support.server_environments import Forge, Workshop

pytestmark = pytest.mark.usefixtures("forget")


# -------------------------------------------------------------------- the stream

WHITE = st.sampled_from(' \t\u00a0\u0085\u2028\u2029\u3000\u2003a"\\é😀\n')
TEXTS = st.builds(lambda a, run, b: a + run * (CUT // 2) + b, st.text(max_size=40), WHITE, st.text(WHITE, max_size=9))


def as_the_reference_client_reads(stream: bytes) -> str:
    """Its parser: lines split at \\n, all leading white space of a field stripped."""
    pieces = []
    for line in stream.split(b"\n"):
        field, _, value = line.decode().rstrip("\r\n").partition(":")
        if field == "data":
            pieces.append(value.lstrip())
    return "".join(pieces)


def as_a_splitlines_parser_reads(stream: bytes) -> str:
    """Such as httpx's ``aiter_lines``."""
    return "".join(line.removeprefix("data:").strip() for line in stream.decode().splitlines() if line[:5] == "data:")


@given(TEXTS | st.text(max_size=50))
def test_any_text_arrives_whole_with_any_reader(text: str):
    result = json.dumps({"text": text}, ensure_ascii=False, separators=(",", ":"))
    stream = result_events(result)
    ours = "".join(data for _, data in EventDecoder().feed(stream))
    for heard in (ours, as_the_reference_client_reads(stream), as_a_splitlines_parser_reads(stream)):
        assert json.loads(heard) == {"text": text}


@given(st.text(max_size=200))
def test_an_error_is_one_event_with_any_message(message: str):
    events = list(EventDecoder().feed(error_events(message)))
    assert [event.name for event in events] == ["error"]
    assert events[0].data.split("\n") == message.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def test_a_long_error_is_cut_and_marked(run: Callable):
    [(name, data)] = EventDecoder().feed(error_events("x" * 10**6 + "\ud800"))
    assert (name, len(data) < 20_000) == ("error", True)
    assert data.endswith("(983617 more characters)")


# -------------------------------------------------------------------- at most once


@pytest.mark.parametrize(
    "fault",
    [
        Fault(refuse=True),
        Fault(drop_answer=True),
        Fault(drop_answer=True, reset=True),
        Fault(silent=True),
        Fault(cut_after=b"task_id"),
        Fault(cut_at=3),
    ],
    ids=str,
)
def test_a_call_whose_answer_is_lost_is_sent_again_and_runs_once(fault: Fault, run: Callable):
    """What no server without ``client_task_ids`` allows: there it would be ambiguous."""

    async def conversation(url: str) -> None:
        faults = [fault, fault]

        def plan(request: ProxiedRequest) -> Fault | None:
            return faults.pop() if request.path.endswith("/call") and faults else None

        async with FaultyProxy(url, plan) as proxy:
            timeouts = Timeouts(first_event_seconds=0.3, silence_seconds=0.3)
            async with ORSClient(proxy.url, timeouts=timeouts) as client:
                async with client.session("forge", split="train", index=0) as session:
                    assert (await session.call_tool("hit", {"text": "once"})).reward == 1.0
        assert not faults

    with forge() as (_, url):
        run(conversation(url))
    assert Forge.executions["once"] == 1


async def opened(http: httpx.AsyncClient) -> dict[str, str]:
    answer = await http.post("/create_session")
    headers = {"X-Session-ID": answer.text.split("data: ")[1].split()[0]}
    (await http.post("/create", json={"split": "train", "index": 0}, headers=headers)).raise_for_status()
    return headers


def test_two_requests_with_one_task_id_hear_one_execution(run: Callable):
    async def conversation(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            headers = await opened(http)
            body = {"name": "hold", "input": {"text": "a"}, "task_id": "mine"}
            calls = [asyncio.create_task(http.post("/call", json=body, headers=headers)) for _ in range(3)]
            await asyncio.to_thread(Forge.started["a"].wait, 20)
            Forge.released["a"].set()
            assert len({(await call).text for call in calls}) == 1
            assert (await http.post("/call", json=body, headers=headers)).text == calls[0].result().text
            await http.post("/delete", headers=headers)

    with forge() as (_, url):
        run(conversation(url))
    assert Forge.executions["a"] == 1


def test_a_result_that_is_no_longer_kept_is_refused_and_the_tool_not_run_again(run: Callable):
    async def conversation(app: ORSApp, url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            headers = await opened(http)
            for key in "abc":
                body = {"name": "hit", "input": {"text": key * 5000}, "task_id": key}
                await http.post("/call", json=body, headers=headers)
            assert app.sessions.results.num_bytes <= 12_000
            for key, kept in (("a", False), ("b", True), ("c", True)):
                body = {"name": "hit", "input": {"text": key * 5000}, "task_id": key}
                answer = (await http.post("/call", json=body, headers=headers)).text
                assert ("unknown task_id" not in answer) == kept
                assert Forge.executions[key * 5000] == 1
            await http.post("/delete", headers=headers)

    with forge(limits=Limits(max_kept_bytes=12_000)) as (app, url):
        run(conversation(app, url))


def test_a_session_remembers_a_bounded_number_of_its_ended_calls():
    results = Results(max_bytes=1, max_seconds=60.0, max_remembered=3)
    calls: dict[str, Any] = {}
    table = results.add_table(calls)
    for number in range(1000):
        results.keep(table, f"call {number}", b"", float(number), heard=True)
    assert list(calls) == ["call 997", "call 998", "call 999"]


def test_results_are_dropped_by_bytes_heard_ones_first_and_by_time():
    results = Results(max_bytes=3 * (100 + Results.OVERHEAD), max_seconds=60.0, max_remembered=10)
    calls: dict[str, Any] = {}
    table = results.add_table(calls)
    for at, (task_id, heard) in enumerate([("unheard", False), ("a", True), ("b", True), ("c", True)]):
        results.keep(table, task_id, b"x" * 100, float(at), heard=heard)
    assert [task_id for task_id, kept in calls.items() if kept is None] == ["a"]
    results.expire(60.5)
    assert [task_id for task_id, kept in calls.items() if kept is not None] == ["b", "c"]
    results.remove_table(table)
    assert results.num_bytes == 0
    results.expire(1000.0)
    assert results.num_bytes == 0


def test_the_results_of_ended_sessions_take_no_memory_until_their_time_is_over():
    results = Results(max_bytes=2**30, max_seconds=60.0, max_remembered=10)
    living: dict[str, Any] = {}
    lives = results.add_table(living)
    results.keep(lives, "kept", b"its result", 0.0, heard=True)
    tracemalloc.start()
    try:
        for number in range(20_000):
            table = results.add_table({})
            results.keep(table, f"call {number}", b"", float(number), heard=number % 2 == 0)
            results.remove_table(table)
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
    assert living == {"kept": b"its result"}
    results.expire(60.5)
    assert living == {"kept": None}


def test_a_call_continues_without_its_client_and_its_result_is_kept(run: Callable):
    async def conversation(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            headers = await opened(http)
            body = {"name": "hold", "input": {"text": "a"}, "task_id": "mine"}
            async with http.stream("POST", "/call", json=body, headers=headers) as answer:
                await anext(answer.aiter_bytes())
            await asyncio.to_thread(Forge.started["a"].wait, 20)
            Forge.released["a"].set()
            assert "held" in (await http.post("/call", json=body, headers=headers)).text
            await http.post("/delete", headers=headers)

    with forge() as (_, url):
        run(conversation(url))
    assert Forge.executions["a"] == 1


def test_a_slow_tool_is_commented_on_until_it_ends(run: Callable):
    async def conversation(url: str) -> str:
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            headers = await opened(http)
            body, heard = {"name": "hold", "input": {"text": "a"}}, b""
            async with http.stream("POST", "/call", json=body, headers=headers) as answer:
                async for chunk in answer.aiter_bytes():
                    heard += chunk
                    if heard.count(b": ping") >= 2:
                        Forge.released["a"].set()
            await http.post("/delete", headers=headers)
            return heard.decode()

    with forge(limits=Limits(ping_seconds=0.02)) as (_, url):
        heard = run(conversation(url))
    assert heard.startswith("event: task_id")
    assert [event.name for event in EventDecoder().feed(heard.encode())] == ["task_id", "end"]


# -------------------------------------------------------------------- what tools do wrong


@pytest.mark.parametrize(
    ("name", "input", "message"),
    [
        ("reward", {"reward": "nan"}, "the result of tool 'reward' cannot be sent: its reward is nan"),
        ("reward", {"reward": "-inf"}, "the result of tool 'reward' cannot be sent: its reward is -inf"),
        ("blunder", {"text": "blocks"}, "the result of tool 'blunder' cannot be sent: it holds str; expected blocks"),
        ("blunder", {"text": "reward"}, "the result of tool 'blunder' cannot be sent: must be real number, not str"),
        ("blunder", {"text": "dict"}, "TypeError: 'blunder' returned dict; expected ToolOutput"),
        ("count", {}, "TypeError: 'count' returned int; it is declared to return str"),
        ("mangle", {}, "the result of tool 'mangle' cannot be sent: .*surrogates not allowed"),
        ("quit", {}, "CancelledError: tool 'quit' was cancelled from within"),
        ("leave", {}, "SystemExit: bye"),
        ("leave_thread", {}, "SystemExit: bye"),
        ("betray", {}, r"RuntimeError: the secrets are {'KEY': '•+'}.*more characters"),
    ],
)
def test_a_tool_that_fails_ends_its_call_with_an_error_and_harms_nothing_else(
    name: str, input: dict[str, str], message: str, run: Callable, caplog: Any
):
    async def conversation(url: str) -> None:
        async with ORSClient(url) as client:
            async with client.session("forge", split="train", index=0, secrets={"KEY": "s3cret"}) as session:
                with pytest.raises(ToolFailedError, match=message) as caught:
                    await session.call_tool(name, input)
                assert "s3cret" not in str(caught.value)
            async with client.session("forge", split="train", index=0) as session:
                assert (await session.call_tool("hit", {"text": "a"})).ok

    with forge() as (_, url):
        run(conversation(url))
    assert "s3cret" not in caplog.text


# -------------------------------------------------------------------- turns


def test_calls_of_one_tool_queue_and_an_exclusive_one_waits_for_all_and_holds_back_the_rest(run: Callable):
    async def conversation() -> list[str]:
        turns, order, tasks = CallScheduler(), [], []

        async def call(label: str, name: str, turn: CallOrder, go: asyncio.Event) -> None:
            await turns.take(name, turn)
            order.append(f"+{label}")
            await go.wait()
            order.append(f"-{label}")
            turns.give_back(name, turn)

        gates: dict[str, asyncio.Event] = {}
        for label, name, turn in (
            ("saw 1", "saw", CallOrder.SERIAL),
            ("saw 2", "saw", CallOrder.SERIAL),
            ("glue", "glue", CallOrder.SERIAL),
            ("look", "look", CallOrder.CONCURRENT),
            ("ship", "ship", CallOrder.EXCLUSIVE),
            ("late look", "look", CallOrder.CONCURRENT),
        ):
            gates[label] = asyncio.Event()
            tasks.append(asyncio.create_task(call(label, name, turn, gates[label])))
            await asyncio.sleep(0)
        for label in ("saw 1", "look", "glue", "ship", "saw 2", "late look"):
            gates[label].set()
            for _ in range(5):
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        return order

    assert run(conversation()) == [
        *("+saw 1", "+glue", "+look"),
        *("-saw 1", "-look", "-glue"),
        *("+ship", "-ship"),
        *("+saw 2", "+late look", "-saw 2", "-late look"),
    ]


@pytest.mark.parametrize("gave_up", ["waiting", "woken"])
def test_a_call_that_is_given_up_in_the_queue_leaves_its_turn_to_the_next(gave_up: str, run: Callable):
    async def conversation() -> None:
        turns = CallScheduler()
        await turns.take("a", CallOrder.SERIAL)
        waiting = asyncio.create_task(turns.take("x", CallOrder.EXCLUSIVE))
        await asyncio.sleep(0)
        after = asyncio.create_task(turns.take("b", CallOrder.CONCURRENT))
        await asyncio.sleep(0)
        if gave_up == "woken":
            turns.give_back("a", CallOrder.SERIAL)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(5):
            await after

    run(conversation())


# -------------------------------------------------------------------- cost


def test_calls_leave_no_garbage_for_the_collector(run: Callable):
    app = create_app([Workshop, Forge])

    async def post(path: str, body: Any, sid: bytes) -> bytes:
        sent: list[bytes] = []
        messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive() -> Any:
            return messages.pop()

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))

        scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"x-session-id", sid)]}
        await app(scope, receive, send)
        return b"".join(sent)

    async def conversation() -> int:
        for name in ("workshop", "forge"):
            await post("/create", {"env_name": name, "split": "train", "index": 0}, name.encode())
        calls = [("workshop", "saw", {"length": 3}), ("workshop", "measure", {}), ("forge", "hit", {"text": "a"})]
        calls += [("forge", "nothing", {}), ("workshop", "saw", {"length": 0})]
        for _ in range(2):  # the first round fills what is filled once
            gc.collect()
            for _ in range(50):
                for sid, tool, input in calls:
                    answer = await post("/call", {"name": tool, "input": input}, sid.encode())
                    assert b"event: end" in answer
            found = gc.collect()
        await app.aclose()
        return found

    gc.disable()
    try:
        assert run(conversation()) < 25  # of 250 calls
    finally:
        gc.enable()


def test_secrets_that_are_no_secrets_are_refused_without_repeating_them(run: Callable):
    async def conversation(url: str) -> None:
        async with httpx.AsyncClient(base_url=url) as http:
            for wrong in (b"s3cret", base64.b64encode(b'{"KEY": "s3cret"}'), base64.b64encode(b'["s3cret"]')):
                headers = {"X-Session-ID": "a", "X-Secrets": wrong.decode()}
                answer = await http.post("/create", json={"split": "train", "index": 0}, headers=headers)
                assert answer.status_code == 400
                assert "s3cret" not in answer.text

    with forge() as (_, url):
        run(conversation(url))
