"""Who may do what on our server, for how long, and what is left behind: nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ors_gym import ORSClient
from ors_gym.errors import AuthenticationError, SessionLostError, StatusError
from ors_gym_server import Limits, create_app
from ors_gym_server.asgi.app import ORSApp
from tests.support.environments import Ledger
from tests.support.forge import BROKEN, SLOW, bare, forge, opened, started
from tests.support.ors_servers import serve_app
from tests.support.server_environments import Forge, Grudge

pytestmark = pytest.mark.usefixtures("forget")


# -------------------------------------------------------------------- who may


def test_a_result_is_for_the_session_whose_call_it_is(run: Callable):
    async def conversation(url: str) -> None:
        async with bare(url) as http:
            first, second = await opened(http), await opened(http)
            body = {"name": "hit", "input": {"text": "mine"}, "task_id": "known"}
            assert "mine" in (await http.post("/call", json=body, headers=first)).text
            theft = await http.post("/call", json={"name": "x", "input": {}, "task_id": "known"}, headers=second)
            assert "mine" not in theft.text
            assert "not_found" in theft.text
            for headers in (first, second):
                await http.post("/delete", headers=headers)

    with forge() as (_, url):
        run(conversation(url))


def test_without_the_key_only_the_health_is_reported(run: Callable):
    async def conversation(url: str) -> None:
        async with bare(url) as http:
            assert (await http.get("/health")).status_code == 200
            for headers in ({}, {"X-API-Key": "wrong"}, {"X-API-Key": ""}, {"Authorization": "Bearer keys"}):
                for method, path in (("GET", "/list_environments"), ("POST", "/call"), ("POST", "/delete")):
                    answer = await http.request(method, path, headers=headers)
                    assert answer.status_code == 401
                    assert "X-API-Key" in answer.json()["detail"]
            for headers in ({"X-API-Key": "key"}, {"Authorization": "Bearer key"}):
                assert (await http.get("/list_environments", headers=headers)).json() == ["forge", "ledger"]
        with pytest.raises(AuthenticationError):
            async with ORSClient(url) as client:
                await client.list_environments()
        async with ORSClient(url, api_key="key") as client, client.session("forge", split="train", index=0) as session:
            assert (await session.call_tool("hit", {"text": "iron"})).reward == 1.0

    with forge(api_key="key") as (_, url):
        run(conversation(url))


def test_of_two_creations_under_one_id_the_second_is_refused(run: Callable):
    async def conversation(url: str) -> None:
        async with bare(url) as http:
            Ledger.open_gate = Forge.released["gate"]
            headers, body = {"X-Session-ID": "one"}, {"env_name": "ledger", "split": "train", "index": 1}
            first = asyncio.create_task(http.post("/create", json=body, headers=headers))
            while (await http.post("/ping", headers=headers)).status_code == 404:
                pass
            second = await http.post("/create", json=body, headers=headers)
            Forge.released["gate"].set()
            assert second.status_code == 400
            assert (await first).status_code == 200
            await http.post("/delete", headers=headers)

    with forge() as (_, url):
        before = Ledger.constructions
        run(conversation(url))
    assert Ledger.constructions == before + 1


def test_a_session_whose_constructor_fails_late_leaves_the_next_of_its_id_alone(run: Callable):
    async def conversation(url: str) -> None:
        async with bare(url) as http:
            headers = {"X-Session-ID": "one"}

            def create(name: str) -> Any:
                return http.post("/create", json={"task_spec": {"name": name}}, headers=headers)

            first = asyncio.create_task(create("slow"))
            await started("constructor")
            deletion = asyncio.create_task(http.post("/delete", headers=headers))
            while (await http.post("/ping", headers=headers)).status_code != 404:
                pass
            assert (await create("plain")).status_code == 200
            Forge.released["constructor"].set()
            assert (await first).status_code == 500
            await deletion
            assert (await http.post("/ping", headers=headers)).status_code == 200
            await http.post("/delete", headers=headers)

    app = create_app([Grudge])
    with serve_app(app) as running:
        run(conversation(running.url))
    assert Forge.log == ["teardown of plain"]


def test_what_a_session_does_to_its_task_no_other_session_sees(run: Callable):
    async def conversation(url: str) -> None:
        async with ORSClient(url) as client:
            for _ in range(2):
                async with client.session("grudge", split="train", index=0) as session:
                    assert "here" not in str(await session.get_prompt())
            assert (await client.get_task("grudge", "train", 0))["answer"] == {"is": "here"}

    with serve_app(create_app([Grudge])) as running:
        run(conversation(running.url))


def test_tasks_that_are_not_a_list_have_a_clear_error(run: Callable):
    async def conversation(url: str) -> None:
        async with ORSClient(url) as client:
            for _ in range(2):
                with pytest.raises(
                    StatusError, match=r"list_tasks\('stream'\) returned list_iterator; expected a list"
                ):
                    await client.num_tasks("grudge", "stream")

    with serve_app(create_app([Grudge])) as running:
        run(conversation(running.url))


# -------------------------------------------------------------------- how much


def test_the_server_says_429_when_it_is_full_and_a_client_waits_for_room(run: Callable):
    async def conversation(url: str) -> None:
        async with bare(url) as http, ORSClient(url) as client:
            headers = await opened(http)
            answer = await http.post("/create", json={"task_spec": {}}, headers={"X-Session-ID": "more"})
            assert answer.status_code == 429
            assert answer.headers["Retry-After"] == "1"
            session = client.session("forge", split="train", index=0)
            waiting = asyncio.create_task(session.open())
            await http.post("/delete", headers=headers)
            await waiting
            await session.close()

    with forge(limits=Limits(max_sessions=1)) as (_, url):
        run(conversation(url))


def test_a_body_of_more_values_than_are_read_is_refused_before_it_is_read(run: Callable):
    async def conversation(url: str) -> None:
        async with bare(url) as http:
            headers = await opened(http)
            body = b'{"name": "hit", "input": {"text": "", "x": [' + b"[]," * 400_000 + b"[]]}}"
            answer = await http.post("/call", content=body, headers=headers)
            assert (answer.status_code, "500,000 values" in answer.text) == (413, True)
            await http.post("/delete", headers=headers)

    with forge() as (_, url):
        run(conversation(url))


def test_a_request_that_is_too_large_is_refused(run: Callable):
    async def conversation(url: str) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(40):
                yield b"x" * 1000

        async with bare(url) as http:
            headers = await opened(http)
            body = {"name": "hit", "input": {"text": "x" * 30_000}}
            assert (await http.post("/call", json=body, headers=headers)).status_code == 413
            assert (await http.post("/call", content=pieces(), headers=headers)).status_code == 413
            await http.post("/delete", headers=headers)

    with forge(limits=Limits(max_request_bytes=20_000)) as (_, url):
        run(conversation(url))


def test_a_session_has_only_so_many_calls_under_way(run: Callable):
    async def conversation(url: str) -> None:
        async with bare(url) as http:
            headers = await opened(http)
            body = {"name": "hold", "input": {"text": "a"}}
            calls = [asyncio.create_task(http.post("/call", json=body, headers=headers)) for _ in range(3)]
            done, running = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            assert [call.result().status_code for call in done] == [429]
            Forge.released["a"].set()
            assert ["held" in (await call).text for call in running] == [True, True]
            await http.post("/delete", headers=headers)

    with forge(limits=Limits(max_calls_per_session=2)) as (_, url):
        run(conversation(url))


# -------------------------------------------------------------------- for how long


def test_an_idle_session_expires_is_torn_down_and_says_so(run: Callable):
    async def conversation(app: ORSApp, url: str) -> None:
        async with bare(url) as http:
            headers = await opened(http)
            while len(app.sessions):
                await asyncio.sleep(0.01)
            answer = await http.post("/ping", headers=headers)
            assert answer.status_code == 410
            assert "expired" in answer.json()["detail"]

    with forge(limits=Limits(session_timeout_seconds=0.2)) as (app, url):
        run(conversation(app, url))
        assert Forge.log == ["teardown of plain"]


def test_a_session_does_not_expire_while_it_works_or_is_pinged(run: Callable):
    async def conversation(app: ORSApp, url: str) -> None:
        async with bare(url) as http:
            headers = await opened(http)
            call = http.post("/call", json={"name": "hold", "input": {"text": "a"}}, headers=headers)
            call = asyncio.create_task(call)
            await started("a")
            await opened(http)
            while len(app.sessions) > 1:  # until the idle one has expired
                await asyncio.sleep(0.01)
            Forge.released["a"].set()
            assert "held" in (await call).text
            await opened(http)
            while len(app.sessions) > 1:
                assert (await http.post("/ping", headers=headers)).status_code == 200
            await http.post("/delete", headers=headers)

    with forge(limits=Limits(session_timeout_seconds=0.3)) as (app, url):
        run(conversation(app, url))


@pytest.mark.parametrize("name", ["hold", "grip"])
def test_a_tool_that_takes_too_long_fails_and_its_session_with_it(name: str, run: Callable):
    async def conversation(url: str) -> None:
        async with ORSClient(url) as client, client.session("forge", split="train", index=0) as session:
            with pytest.raises(Exception, match=r"took longer than 0\.2 s"):
                await session.call_tool(name, {"text": "a"})
            with pytest.raises(SessionLostError):
                await session.call_tool("hit", {"text": "b"})
        async with bare(url) as http:
            headers = await opened(http)
            await http.post("/call", json={"name": name, "input": {"text": "a"}}, headers=headers)
            answer = await http.post("/call", json={"name": "hit", "input": {"text": "b"}}, headers=headers)
            assert answer.status_code == 410
            assert repr(name) in answer.json()["detail"]

    limits = Limits(tool_timeout_seconds=0.2, teardown_seconds=0.2)
    with forge(limits=limits) as (_, url):
        run(conversation(url))
        assert Forge.executions["b"] == 0
    assert Forge.log == ["teardown of plain"] * 2  # beside the stuck thread, after a while
    Forge.released["a"].set()


# -------------------------------------------------------------------- from setup to teardown


def test_a_slow_setup_is_answered_503_and_what_needs_no_setup_at_once(run: Callable):
    async def conversation(url: str) -> None:
        async with bare(url) as http:
            headers = await opened(http, SLOW)
            for method, path in (("GET", "/prompt"), ("POST", "/call")):
                answer = await http.request(method, path, headers=headers, json={"name": "hit", "input": {}})
                assert answer.status_code == 503
                assert answer.headers["X-Backend-State"] == "starting"
                assert answer.headers["Retry-After"] == "2"
            assert (await http.get("/task_tools", headers=headers)).status_code == 200
            Forge.released["setup"].set()
            assert (await http.get("/prompt", headers=headers)).json() == [{"type": "text", "text": "Forge."}]
            await http.post("/delete", headers=headers)

    with forge(limits=Limits(setup_wait_seconds=0.05)) as (_, url):
        run(conversation(url))


@pytest.mark.parametrize("secret", ["s3cret", "-----BEGIN\ns3cret\n", 'a "s3cret" of König\'s'])
def test_a_setup_that_fails_is_torn_down_and_answered_without_the_secrets(secret: str, run: Callable, caplog: Any):
    async def conversation(url: str) -> None:
        async with ORSClient(url) as client:
            async with client.session("forge", split="train", index=BROKEN, secrets={"KEY": secret}) as session:
                for _ in range(2):
                    with pytest.raises(StatusError, match=r"RuntimeError: no fire with .*•+") as caught:
                        await session.get_prompt()
                    assert caught.value.status == 500
                    assert "s3cret" not in str(caught.value)

    with forge() as (_, url):
        run(conversation(url))
        assert Forge.log == ["teardown of broken"]
    assert "setup of environment 'forge'" in caplog.text
    assert "s3cret" not in caplog.text


def test_deleting_a_session_ends_its_setup_or_its_calls_before_the_teardown(run: Callable):
    async def conversation(url: str) -> None:
        async with bare(url) as http:
            headers = await opened(http, SLOW)
            await started("setup")
            deletion = asyncio.create_task(http.post("/delete", headers=headers))
            assert (await http.get("/prompt", headers=headers)).status_code in (404, 410)
            Forge.released["setup"].set()
            await deletion
            headers = await opened(http)
            body = {"name": "hold", "input": {"text": "a"}}
            call = asyncio.create_task(http.post("/call", json=body, headers=headers))
            await started("a")
            await http.post("/delete", headers=headers)
            assert "event: error\r\ndata: Session deleted" in (await call).text

    with forge() as (_, url):
        run(conversation(url))
        assert Forge.log == ["teardown of slow", "teardown of plain"]


def test_a_teardown_waits_for_a_concurrent_synchronous_tool(run: Callable):
    async def conversation(url: str) -> None:
        async with bare(url) as http:
            headers = await opened(http)
            call = asyncio.create_task(
                http.post("/call", json={"name": "meet", "input": {"text": "a"}}, headers=headers)
            )
            await started("a")
            deletion = asyncio.create_task(http.post("/delete", headers=headers))
            assert "Session deleted" in (await call).text
            Forge.started["b"].set()
            await deletion

    with forge() as (_, url):
        run(conversation(url))
        assert Forge.log == ["met b", "teardown of plain"]


def test_when_the_server_stops_every_session_is_torn_down(run: Callable):
    async def conversation(url: str) -> None:
        async with bare(url) as http:
            for _ in range(5):
                await opened(http)

    with forge() as (app, url):
        run(conversation(url))
        assert len(app.sessions) == 5
    assert Forge.log == ["teardown of plain"] * 5


@pytest.mark.parametrize(
    ("name", "message"), [("leave", "SystemExit: bye"), ("late", "TimeoutError: the sandbox does not answer")]
)
def test_a_failing_teardown_is_logged_and_affects_no_other_session(name: str, message: str, run: Callable, caplog: Any):
    async def conversation(url: str) -> None:
        async with ORSClient(url) as client, client.session("grudge", task={"name": "plain"}) as bystander:
            async with client.session("grudge", task={"name": name}) as session:
                await session.get_prompt()
            assert (await bystander.call_tool("hit", {"text": "a"})).ok

    with serve_app(create_app([Grudge])) as running:
        run(conversation(running.url))
    assert Forge.log == [f"teardown of {name}", "teardown of plain"]
    assert message in caplog.text


def test_a_teardown_that_takes_too_long_is_left_behind(run: Callable, caplog: Any, monkeypatch: pytest.MonkeyPatch):
    def teardown(self: Forge) -> None:
        assert self.released["teardown"].wait(30)

    async def conversation(url: str) -> None:
        async with bare(url) as http:
            await http.post("/delete", headers=await opened(http))

    monkeypatch.setattr(Forge, "teardown", teardown)
    with forge(limits=Limits(teardown_seconds=0.05)) as (_, url):
        run(conversation(url))
    Forge.released["teardown"].set()
    assert "TimeoutError: it took longer than 0.05 s, and is left behind" in caplog.text


# -------------------------------------------------------------------- threads
