"""Keys and secrets are in no log and no error."""

from __future__ import annotations

import asyncio
import base64
import logging

import pytest

from ors_gym.client.client import ORSClient
from ors_gym.errors import (
    ConnectError,
    ORSError,
)
from tests.support.faulty_proxy import Fault, FaultyProxy, http_answer

API_KEY, SECRET, PASSWORD = "key-7f3a9c", "secret\\5d21e8", "password-90b1"
HIDDEN = (API_KEY, SECRET, "5d21e8", PASSWORD, base64.b64encode(SECRET.encode()).decode()[:8])


def everything_said(error: BaseException | None) -> str:
    said = ""
    while error is not None:
        said += f"{error} {error!r} {error.args!r} {vars(error)!r}"
        error = error.__cause__ or error.__context__
    return said


def test_keys_and_secrets_are_in_nothing_that_is_logged_or_raised(server, caplog):
    caplog.set_level(logging.DEBUG)
    said: list[str] = []

    async def conversation() -> None:
        faults = [
            Fault(answer=http_answer("500 No", b'{"detail": "%s"}' % f"{API_KEY} {SECRET}".encode())),
            Fault(drop_answer=True),
            Fault(answer=http_answer("401 No", API_KEY.encode())),
            None,
        ]
        for fault in faults:
            plan = lambda request, fault=fault: fault if request.path.endswith("/call") else None  # noqa: E731
            async with FaultyProxy(server.url, plan) as proxy:
                url = proxy.url.replace("http://", f"http://user:{PASSWORD}@")
                async with ORSClient(url, api_key=API_KEY) as client:
                    async with client.session("ledger", task={}, secrets={"TOKEN": SECRET}) as session:
                        said.append(f"{client!r} {session!r} {client.url}")
                        with pytest.raises(ORSError) as caught:
                            await session.call_tool("reveal")
                        said.append(everything_said(caught.value))
                    assert any(API_KEY.encode() in request.head for request in proxy.requests)
        echoes = f"{API_KEY} {SECRET}".encode()
        for answer in (http_answer("500 No", echoes), http_answer("200 OK", b"no JSON: " + echoes)):
            plan = lambda request, answer=answer: Fault(answer=answer) if request.path == "/create" else None  # noqa: E731
            async with FaultyProxy(server.url, plan) as proxy, ORSClient(proxy.url, api_key=API_KEY) as client:
                with pytest.raises(ORSError) as refused:
                    await client.session("ledger", task={}, secrets={"TOKEN": SECRET}).open()
                said.append(everything_said(refused.value))
        for bad in (f"{API_KEY}\n", f"{API_KEY}\u2028"):
            with pytest.raises(ValueError, match="header") as unsendable:
                await ORSClient(server.url, api_key=bad).health()
            said.append(everything_said(unsendable.value))
        client = ORSClient(f"http://user:{PASSWORD}@127.0.0.1:9", api_key=API_KEY)
        with pytest.raises(ConnectError) as unreached:
            await client.health()
        said.append(everything_said(unreached.value))

    asyncio.run(conversation())
    ours = [record for record in caplog.records if not record.name.startswith("sse_starlette")]  # the server's
    text = " ".join(said) + " ".join(f"{record.getMessage()} {record.args}" for record in ours)
    assert "•••" in text  # the servers did echo them
    assert [hidden for hidden in HIDDEN if hidden in text] == []
