"""What every request meets first: the key, the host's name, the prefix, and answers that no cache keeps."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import ClassVar

import httpx
import pytest
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import Mount

from ors_gym import ORSClient
from ors_gym.http.answers import ASGIApp
from ors_gym.http.asgi import ASGITransport
from ors_gym.types import ToolOutput
from ors_gym_server import Environment, create_app, tool
from ors_gym_server.asgi.processes import num_processes
from ors_gym_server.run.entrance import Entrance


class Amount(BaseModel):
    n: int


class Lab(Environment):
    """Remembers what is left behind."""

    torn_down: ClassVar[list[int]] = []

    @classmethod
    def list_splits(cls):
        return ["train"]

    @classmethod
    def list_tasks(cls, split):
        return [{"n": n} for n in range(3)]

    def get_prompt(self):
        return f"{self.task_spec['n']} {dict(self.secrets)}"

    def teardown(self):
        self.torn_down.append(self.task_spec["n"])

    @tool
    def add(self, params: Amount) -> str:
        """Add."""
        return str(self.task_spec["n"] + params.n)

    @tool
    def fail(self) -> ToolOutput:
        """Raise what cannot be put into words."""
        raise UnspeakableError


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise SystemExit("unspeakable")


class Unready(Lab):
    """Fails in setup, in a way that cannot be put into words."""

    def setup(self):
        raise UnspeakableError


@pytest.fixture(autouse=True)
def forget():
    Lab.torn_down.clear()


@contextlib.asynccontextmanager
async def http(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url="http://localhost", transport=ASGITransport(app)) as client:
        yield client


async def opened(client: httpx.AsyncClient, *, secrets: dict[str, str] | None = None, **headers: str) -> dict[str, str]:
    headers = {"X-Session-ID": f"session-{len(headers)}", **headers}
    body = {"split": "train", "index": 1, "unknown": 1} | ({} if secrets is None else {"secrets": secrets})
    (await client.post("/create", json=body, headers=headers)).raise_for_status()
    return headers


EVERY_ANSWER = [
    ("GET", "/health", 200),
    ("GET", "/list_environments", 200),
    ("GET", "/lab/tools", 200),
    ("GET", "/nowhere/tools", 404),
    ("GET", "/prompt", 400),
    ("POST", "/tasks", 422),
    ("DELETE", "/tools", 405),
]


def test_no_cache_keeps_any_answer(run: Callable):
    async def conversation() -> None:
        app = create_app([Lab])
        async with app.lifespan(), http(app) as client:
            for method, path, status in EVERY_ANSWER:
                answer = await client.request(method, path)
                assert (answer.status_code, answer.headers["cache-control"]) == (status, "no-store")
            headers = await opened(client)
            assert (await client.get("/prompt", headers=headers)).headers["cache-control"] == "no-store"
            events = await client.post("/call", json={"name": "add", "input": {"n": 1}}, headers=headers)
            assert events.headers["cache-control"] == "no-store, no-transform"

    run(conversation())


def test_the_key_is_checked_before_anything_else_is_looked_at(run: Callable):
    async def conversation() -> None:
        app = create_app([Lab], api_key="k3y")
        async with app.lifespan(), http(app) as client:
            for method, path, _ in (*EVERY_ANSWER[1:], ("POST", "/create_session", 0), ("OPTIONS", "/tools", 0)):
                assert (await client.request(method, path, content=b"{" * 100)).status_code == 401
            for headers in ({"X-API-Key": "k3y"}, {"Authorization": "bearer k3y"}, {"Authorization": "BEARER  k3y"}):
                assert (await client.get("/tools", headers=headers)).status_code == 200
            for headers in ({"Authorization": "k3y"}, {"Authorization": "Basic k3y"}, {"X-API-Key": "k3"}):
                assert (await client.get("/tools", headers=headers)).status_code == 401

    run(conversation())


def test_heads_and_options_are_answered(run: Callable):
    async def conversation() -> None:
        app = create_app([Lab])
        async with app.lifespan(), http(app) as client:
            assert (await client.head("/health")).status_code == 200
            for path, allowed in (("/tools", "GET, HEAD"), ("/lab/call", "POST"), ("/create_session", "POST")):
                assert (await client.options(path)).headers["allow"] == allowed
            assert (await client.delete("/tools")).headers["allow"] == "GET, HEAD"
            assert (await client.options("/nothing")).status_code == 404

    run(conversation())


def test_a_session_id_is_json_for_those_who_ask_for_json(run: Callable):
    async def conversation() -> None:
        async with http(create_app([Lab])) as client:
            assert "event: task_id" in (await client.post("/create_session")).text
            answer = await client.post("/create_session", headers={"Accept": "application/json"})
            assert list(answer.json()) == ["sid"]

    run(conversation())


# -------------------------------------------------------------------- bodies and secrets


def test_secrets_are_taken_from_the_body_and_from_the_header(run: Callable):
    async def conversation() -> None:
        app = create_app([Lab])
        async with app.lifespan(), http(app) as client:
            header = base64.b64encode(json.dumps({"A": {"value": "1"}}).encode()).decode()
            headers = await opened(client, secrets={"A": "2", "B": "3"}, **{"X-Secrets": header})
            assert (await client.get("/prompt", headers=headers)).json()[0]["text"] == "1 {'A': '1', 'B': '3'}"

    run(conversation())


@pytest.mark.parametrize(
    "secrets",
    [b"\xff", b"[]", b"{}x", b'{"A": "x"}', b'{"A": {}}', b'{"A": {"value": 1}}', b"[" * 4000, b'{"A": null}', b'"A"'],
)
def test_bad_secrets_are_refused(run: Callable, secrets: bytes):
    async def conversation() -> None:
        app = create_app([Lab])
        async with app.lifespan(), http(app) as client:
            for header in (base64.b64encode(secrets).decode(), f"%{secrets[:9].hex()}"):
                headers = {"X-Session-ID": "s", "X-Secrets": header}
                answer = await client.post("/create", json={"split": "train", "index": 1}, headers=headers)
                assert (answer.status_code, answer.json()["detail"][:9]) == (400, "X-Secrets")

    run(conversation())


def test_a_refused_body_is_not_repeated_and_its_many_errors_are_counted(run: Callable):
    async def conversation() -> None:
        app = create_app([Lab])
        async with app.lifespan(), http(app) as client:
            headers = {"X-Session-ID": "s"}
            answer = await client.post("/create", json={"secrets": {"A": ["s3cret"]}}, headers=headers)
            assert answer.status_code == 422
            assert "s3cret" not in answer.text
            body = {"task_spec": {}, "secrets": dict.fromkeys(map(str, range(5000)), 1)}
            answer = await client.post("/create", json=body, headers=headers)
            assert answer.json() == {"detail": "the body has 5000 errors"}

    run(conversation())


def test_an_input_with_many_errors_is_refused_in_few_words(run: Callable):
    class Strict(BaseModel, extra="forbid"):
        n: int = 0

    class Desk(Lab):
        @tool
        def write(self, params: Strict) -> str:
            """Write."""
            return "written"

    async def conversation() -> None:
        app = create_app([Desk])
        async with app.lifespan(), ORSClient("http://localhost", transport=ASGITransport(app)) as client:
            async with client.session("desk", split="train", index=0) as session:
                output = await session.call_tool("write", dict.fromkeys(map(str, range(5000)), 1))
                assert (output.ok, output.reason) == (False, "input_validation")
                assert output.text == "Tool input validation error: 5000 errors"

    Desk.write.__annotations__["params"] = Strict
    run(conversation())


# -------------------------------------------------------------------- exceptions without words


def test_an_exception_whose_str_raises_ends_its_call(run: Callable):
    async def conversation() -> None:
        app = create_app([Lab])
        async with app.lifespan(), http(app) as client:
            headers = await opened(client)
            answer = await client.post("/call", json={"name": "fail", "input": {}}, headers=headers)
            assert "event: error\r\ndata: UnspeakableError: its str() raised SystemExit" in answer.text
            answer = await client.post("/call", json={"name": "add", "input": {"n": 1}}, headers=headers)
            assert "event: end" in answer.text

    run(conversation())


def test_a_setup_whose_exception_cannot_be_put_into_words_has_failed(run: Callable):
    async def conversation() -> None:
        app = create_app([Unready])
        async with app.lifespan(), http(app) as client:
            headers = await opened(client)
            for path in ("/prompt", "/messages"):
                answer = await client.get(path, headers=headers)
                assert answer.status_code == 500
                assert answer.json() == {"detail": "UnspeakableError: its str() raised SystemExit"}
        assert Lab.torn_down == [1]

    run(conversation())


# -------------------------------------------------------------------- names and prefixes


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]:8080", "a.localhost", "me.lan", "x", "host.docker.internal"],
)
def test_a_server_without_a_key_answers_to_names_of_this_machine(run: Callable, host: str):
    async def conversation() -> None:
        async with http(Entrance(create_app([Lab]), hosts=["me.lan"])) as client:
            assert (await client.get("/tools", headers={"Host": host})).status_code == 200

    run(conversation())


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8080", "localhost.evil", "", "me.lan.evil"])
def test_and_to_no_name_that_was_made_to_point_here(run: Callable, host: str):
    async def conversation() -> None:
        async with http(Entrance(create_app([Lab]), hosts=["me.lan"])) as client:
            answer = await client.get("/tools", headers={"Host": host})
            assert answer.status_code == 403
            assert "set a key, or allow the host" in answer.json()["detail"]

    run(conversation())


def test_a_prefix_may_be_left_before_the_paths_or_taken_off(run: Callable):
    async def conversation() -> None:
        async with http(Entrance(create_app([Lab]), root_path="/envs/")) as client:
            for path in ("/envs/lab/tools", "/lab/tools", "/envs/tools"):
                assert (await client.get(path)).status_code == 200
            assert (await client.get("/envsx/tools")).status_code == 404

    run(conversation())


def test_a_path_that_leads_nowhere_is_answered_with_what_there_is_and_asks_about_a_prefix(run: Callable):
    async def conversation() -> None:
        async with http(create_app([Lab])) as client:
            for method, path in (("GET", "/envs/list_environments"), ("POST", "/envs/create_session")):
                answer = await client.request(method, path)
                assert answer.status_code == 404
                assert all(word in answer.json()["detail"] for word in (path, "/lab/…", "/health", "--root-path"))
            assert "--root-path" not in (await client.get("/")).json()["detail"]

    run(conversation())


# -------------------------------------------------------------------- mounted, and in several processes


def test_a_mounted_application_tears_down_with_the_lifespan_that_is_passed_on(run: Callable):
    async def conversation() -> None:
        app = create_app([Lab])
        site = Starlette(routes=[Mount("/envs/lab", app=app)], lifespan=app.lifespan)
        for _ in range(2):  # an application may be started again
            async with site.router.lifespan_context(site):
                async with ORSClient("http://localhost/envs/lab", transport=ASGITransport(site)) as client:
                    session = client.session("lab", split="train", index=2)
                    await session.open()
                    assert (await session.call_tool("add", {"n": 1})).text == "3"
                    assert app.num_sessions == 1
                    await session.close()
                    async with http(site) as bare:
                        body = {"split": "train", "index": 0}
                        await bare.post("/envs/lab/create", json=body, headers={"X-Session-ID": "left"})
        assert Lab.torn_down == [2, 0, 2, 0]

    run(conversation())


def test_a_lifespan_that_never_started_is_reported_at_the_first_session(
    run: Callable, caplog: pytest.LogCaptureFixture
):
    async def conversation() -> None:
        app = create_app([Lab])
        async with http(Starlette(routes=[Mount("/envs", app=app)])) as client:
            for sid in "ab":
                await client.post("/envs/create", json={"split": "train", "index": 0}, headers={"X-Session-ID": sid})
        await app.aclose()

    with caplog.at_level(logging.WARNING, "ors_gym_server"):
        run(conversation())
    assert [record.message.partition(",")[0] for record in caplog.records] == [
        "the lifespan of the ORS application never began"
    ]


def test_deleting_an_unknown_session_does_not_succeed(run: Callable):
    async def conversation() -> None:
        app = create_app([Lab])
        async with app.lifespan(), http(app) as client:
            headers = await opened(client)
            for _ in range(2):
                assert (await client.post("/delete", headers=headers)).status_code == 200
            assert (await client.post("/delete", headers={"X-Session-ID": "elsewhere"})).status_code == 404
            assert (await client.post("/delete_session", headers={"X-Session-ID": "elsewhere"})).status_code == 200

    run(conversation())


@pytest.mark.parametrize(
    ("argv", "environ", "count"),
    [
        (["/usr/bin/uvicorn", "app:app", "--workers", "4"], {}, 4),
        (["/site-packages/uvicorn/__main__.py", "app:app", "--workers=3"], {}, 3),
        (["gunicorn", "-w", "2", "app:app"], {}, 2),
        (["uvicorn", "app:app"], {"WEB_CONCURRENCY": "5"}, 5),
        (["uvicorn", "app:app", "--workers"], {}, 1),
        (["uvicorn", "app:app"], {}, 1),
        (["ors-gym", "serve", "--workers", "4"], {}, 1),
        ([], {"WEB_CONCURRENCY": "5"}, 1),
    ],
)
def test_several_processes_are_seen_on_the_command_line(argv: list[str], environ: dict[str, str], count: int):
    assert num_processes(argv, environ) == count


# -------------------------------------------------------------------- classes written for others
