"""A server with Forge and Ledger, and the requests of one of its sessions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx

from ors_gym_server import create_app
from ors_gym_server.asgi.app import ORSApp
from tests.support.environments import Ledger
from tests.support.ors_servers import serve_app
from tests.support.server_environments import Forge

__all__ = ["BROKEN", "PLAIN", "SLOW", "bare", "forge", "opened", "started"]

PLAIN, SLOW, BROKEN = 0, 1, 2


@contextlib.contextmanager
def forge(**options: Any) -> Iterator[tuple[ORSApp, str]]:
    app = create_app([Forge, Ledger], **options)
    with serve_app(app) as running:
        yield app, running.url
    assert len(app.sessions) == 0


async def opened(http: httpx.AsyncClient, index: int = PLAIN, **headers: str) -> dict[str, str]:
    answer = await http.post("/create_session", headers=headers)
    headers = {"X-Session-ID": answer.text.split("data: ")[1].split()[0], **headers}
    answer = await http.post("/create", json={"split": "train", "index": index}, headers=headers)
    assert answer.json() == {"sid": headers["X-Session-ID"], "client_task_ids": True}
    return headers


@contextlib.asynccontextmanager
async def bare(url: str, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=30, **options) as http:
        yield http


async def started(name: str) -> None:
    assert await asyncio.to_thread(Forge.started[name].wait, 20)
