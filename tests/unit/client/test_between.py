"""What stands between a client and a server: caches, balancers, sleeping gateways."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from ors_gym.client.client import ORSClient, Timeouts
from ors_gym.errors import NotFoundError, SessionLostError, StatusError
from tests.support.scripted_server import ScriptedORS, http, json_answer

NOT_FOUND = json_answer({"detail": "Not Found"}, status="404 Not Found")


def play(server: ScriptedORS, sessions: int = 1, **options) -> None:
    async def conversation() -> None:
        async with server, ORSClient(server.url, **options) as client:
            for _ in range(sessions):
                async with client.session("bad", split="train", index=0) as session:
                    await session.get_prompt()
                    await session.get_messages()
                    await session.list_tools()

    asyncio.run(asyncio.wait_for(conversation(), 60))


def test_no_two_sessions_read_from_the_same_url():
    server = ScriptedORS()
    play(server, sessions=2)
    for name in ("prompt", "messages", "task_tools"):
        targets = [target for _, target, _, _ in server.seen(name)]
        assert len(set(targets)) == 2, targets


def test_a_server_that_says_no_store_gets_its_plain_urls():
    server = ScriptedORS({"create": json_answer({}, headers="Cache-Control: no-store\r\n")})
    play(server)
    assert [target for _, target, _, _ in server.seen("prompt")] == ["/bad/prompt"]


def test_a_server_that_reads_no_queries_is_found_out_by_its_health():
    class Literal(ScriptedORS):
        """Compares the whole target, as a hand-written server does."""

    server = Literal()
    sound = dict(server.answers)

    class Answers(dict):
        def get(self, name, default=None):
            target = server.requests[-1][1]
            return NOT_FOUND if "?" in target else sound.get(name, default)

    server.answers = Answers()
    play(server, sessions=2)
    assert len([target for _, target, _, _ in server.seen("health")]) == 1
    assert [target for _, target, _, _ in server.seen("prompt")][-1] == "/bad/prompt"


def test_a_session_that_is_gone_is_never_looked_for_where_a_cache_answers():
    server = ScriptedORS({"prompt": NOT_FOUND})

    async def conversation() -> None:
        async with server, ORSClient(server.url) as client:
            async with client.session("bad", split="train", index=0) as session:
                with pytest.raises(SessionLostError, match="one X-Session-ID together"):
                    await session.get_prompt()

    asyncio.run(conversation())
    assert all("?session=" in target for _, target, _, _ in server.seen("prompt"))


def test_the_cookies_of_a_session_are_sent_back_with_its_requests():
    server = ScriptedORS(
        {
            "create_session": json_answer({"sid": "s1"}, headers="Set-Cookie: SRV=a; path=/\r\nSet-Cookie: B=2\r\n"),
            "create": json_answer({}, headers="Set-Cookie: SRV=b; Max-Age=9\r\n"),
        }
    )
    play(server, headers={"Cookie": "mine=1"})
    assert server.seen("create_session")[0][2]["cookie"] == "mine=1"
    assert server.seen("create")[0][2]["cookie"] == "mine=1; SRV=a; B=2"
    for name in ("prompt", "delete", "delete_session"):
        assert server.seen(name)[0][2]["cookie"] == "mine=1; SRV=b; B=2"
    assert server.seen("list_environments")[0][2]["cookie"] == "mine=1"


def test_waiting_for_a_waking_server_is_logged(caplog):
    page = b"<html><head><title>Your Space is waking</title></head></html>"
    waking = http(page, "text/html; charset=utf-8", status="503 Service Unavailable", headers="Retry-After: 0\r\n")
    server = ScriptedORS()
    sound = dict(server.answers)

    class Answers(dict):
        def get(self, name, default=None):
            return waking if len(server.requests) <= 7 else sound.get(name, default)

    server.answers = Answers()
    with caplog.at_level(logging.WARNING):
        play(server)
    assert caplog.text.count("a page titled 'Your Space is waking'") == 1
    assert len(server.seen("list_environments")) == 8


def test_a_page_in_an_error_is_cut_to_its_title():
    page = b"<!DOCTYPE html><head><title>\n 405 Not  Allowed</title></head>" + b"<p>much more</p>" * 1000
    server = ScriptedORS({"list_environments": http(page, "text/html", status="405 Not Allowed")})

    async def conversation() -> None:
        async with server, ORSClient(server.url) as client:
            with pytest.raises(StatusError, match=r"405: a page titled '405 Not Allowed'") as caught:
                await client.list_environments()
            assert len(str(caught.value)) < 300

    asyncio.run(conversation())


def test_waiting_for_a_silent_server_is_logged(monkeypatch, caplog):
    monkeypatch.setattr("ors_gym.client.requests.NOTICE_SECONDS", 0.05)

    async def silent(writer: asyncio.StreamWriter) -> None:
        while not caplog.records:
            await asyncio.sleep(0.01)
        writer.write(json_answer(["bad"]))
        await writer.drain()

    server = ScriptedORS({"list_environments": silent})

    async def conversation() -> None:
        async with server, ORSClient(server.url) as client:
            assert await client.list_environments() == ("bad",)

    with caplog.at_level(logging.WARNING):
        asyncio.run(asyncio.wait_for(conversation(), 30))
    assert "no answer to GET http://127.0.0.1" in caplog.text


# ------------------------------------------------------------------- what a server need not have


def test_tasks_are_counted_and_found_in_the_list_where_a_server_only_lists_them():
    tasks = [{"id": i} for i in range(5)]
    server = ScriptedORS({"tasks": json_answer({"tasks": tasks}), "create": json_answer({})})
    for name in ("num_tasks", "task", "task_range"):
        del server.answers[name]

    async def conversation() -> None:
        async with server, ORSClient(server.url) as client:
            assert await client.num_tasks("bad", "train") == 5
            assert await client.get_task("bad", "train", 3) == {"id": 3}
            assert await client.get_task("bad", "train", -1) == {"id": 4}
            assert await client.get_tasks("bad", "train", 1, 3) == ({"id": 1}, {"id": 2})
            with pytest.raises(NotFoundError, match="has 5"):
                await client.get_task("bad", "train", 5)

    asyncio.run(conversation())
    assert len(server.seen("tasks")) == 1


def test_a_server_that_knows_no_indices_is_given_the_task():
    class ByTask(ScriptedORS):
        pass

    server = ByTask()
    sound = dict(server.answers)

    class Answers(dict):
        def get(self, name, default=None):
            body = server.requests[-1][3]
            if name == "create" and b"task_spec" not in body:
                return json_answer({"detail": "task_spec is required"}, status="400 Bad Request")
            return sound.get(name, default)

    server.answers = Answers()
    play(server, sessions=2)
    bodies = [json.loads(body) for _, _, _, body in server.seen("create")]
    assert ["task_spec" in body for body in bodies] == [False, True, True]


@pytest.mark.parametrize("takes", ["body", "header"])
def test_secrets_go_into_the_body_or_into_the_header_whichever_the_server_takes(takes):
    server = ScriptedORS()
    sound = dict(server.answers)

    class Answers(dict):
        def get(self, name, default=None):
            _, _, headers, body = server.requests[-1]
            wrong = "x-secrets" in headers if takes == "body" else b"secrets" in body
            if name == "create" and wrong:
                return json_answer({"detail": f"extra: {body.decode()}"}, status="422 Unprocessable")
            return sound.get(name, default)

    server.answers = Answers()

    async def conversation() -> None:
        async with server, ORSClient(server.url) as client:
            for _ in range(2):
                async with client.session("bad", split="train", index=0, secrets={"K": "hidden-value"}) as session:
                    await session.get_prompt()

    asyncio.run(conversation())
    creations = server.seen("create")
    assert len(creations) == (2 if takes == "body" else 3)
    last = creations[-1]
    assert (b"hidden-value" in last[3]) is (takes == "body")
    assert ("x-secrets" in last[2]) is (takes == "header")


def test_a_server_without_pings_keeps_its_sessions():
    server = ScriptedORS()
    del server.answers["ping"]

    async def conversation() -> None:
        async with server, ORSClient(server.url) as client:
            async with client.session("bad", split="train", index=0) as session:
                for _ in range(3):
                    await session.ping()
                assert (await session.call_tool("act")).ok

    asyncio.run(conversation())
    assert len(server.seen("ping")) == 1
    assert len(server.seen("prompt")) == 3


def test_closing_keeps_to_close_seconds_in_all(caplog):
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    server = ScriptedORS({"delete": silent, "delete_session": silent})

    async def conversation() -> float:
        loop = asyncio.get_running_loop()
        async with server, ORSClient(server.url, timeouts=Timeouts(close_seconds=0.2)) as client:
            session = client.session("bad", split="train", index=0)
            await session.open()
            begun = loop.time()
            await session.close()
            return loop.time() - begun

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(asyncio.wait_for(conversation(), 30)) < 10
    assert "was not deleted" in caplog.text


def test_an_error_that_names_its_cause_says_everything_once():
    gone = json_answer({"detail": "no such session"}, status="404 Not Found")

    async def conversation() -> None:
        server = ScriptedORS({"prompt": gone})
        async with server, ORSClient(server.url) as client:
            lost = client.session("bad", split="train", index=0)
            await lost.open()
            with pytest.raises(SessionLostError):
                await lost.get_prompt()
            never = client.session("bad", split="train", index=0)
            server.answers["create"] = json_answer({"detail": "no such split"}, status="400 Bad Request")
            with pytest.raises(StatusError):
                await never.open()
            for session in (lost, never):
                with pytest.raises(SessionLostError) as caught:
                    await session.list_tools()
                said = str(caught.value)
                assert said.count("[") == said.count("http://") + said.count("[session") == 2, said
                assert said.count(". ") == 1, said
                assert said.endswith(". Start the episode again on a new session"), said

    asyncio.run(asyncio.wait_for(conversation(), 60))
