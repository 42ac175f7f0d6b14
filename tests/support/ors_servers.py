"""Reference ORS servers for the tests, on real sockets.

All of them run on one event-loop thread: sse-starlette keeps an event for the whole process that belongs to the first
loop that waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

os.environ.setdefault("OPENREWARD_LOG_LEVEL", "CRITICAL")  # read when the SDK is imported

import uvicorn
from openreward.environments import Environment, Server

__all__ = ["RunningServer", "Server", "free_port", "serve", "serve_app", "server_loop"]

T = TypeVar("T")


@dataclass
class RunningServer:
    """A server that answers at ``url``. ``server`` is the SDK's, None for another ASGI app."""

    url: str
    server: Server | None
    uvicorn_server: uvicorn.Server

    @property
    def live_sessions(self) -> dict[str, Environment]:
        """The environments of the sessions that exist now, by session id."""
        assert self.server is not None
        return {sid: env for sid, env in self.server._active_envs.items() if env is not None}

    def forget(self, sid: str) -> None:
        """Drop a session as a restarted server would: without a trace."""
        assert self.server is not None
        for table in (self.server._active_envs, self.server._ready, self.server._last_ping, self.server._setup_tasks):
            table.pop(sid, None)


class ServerLoop:
    """The thread that all servers of the process run on."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="test servers", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)


_server_loop: ServerLoop | None = None


def server_loop() -> ServerLoop:
    global _server_loop
    if _server_loop is None:
        _server_loop = ServerLoop()
    return _server_loop


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serve(*environments: type[Environment], **config: Any) -> Iterator[RunningServer]:
    """Run the reference server with these environments, and stop it."""
    for environment in environments:  # the SDK keeps these on the class, where a subclass would find its parent's
        environment._splits_cache = environment.list_splits()
        environment._tasks_cache, environment._tasks_cache_locks = {}, {}
    server = Server(list(environments))
    with serve_app(server.app, server=server, **config) as running:
        yield running


@contextlib.contextmanager
def serve_app(app: Any, *, server: Server | None = None, port: int = 0, **config: Any) -> Iterator[RunningServer]:
    """Run any ASGI application on a free port, or on ``port``, and stop it."""
    loop = server_loop()
    # asyncio turns Nagle's algorithm off only where it sees the protocol: without it each answer waits 40 ms.
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    settings = {"log_config": None, "log_level": "critical", "access_log": False, "ws": "none"}
    settings |= {"timeout_graceful_shutdown": 1}
    uvicorn_server = uvicorn.Server(uvicorn.Config(app, **(settings | config)))
    started = threading.Event()

    async def run() -> None:
        uvicorn_server.config.load()
        uvicorn_server.lifespan = uvicorn_server.config.lifespan_class(uvicorn_server.config)
        await uvicorn_server.startup(sockets=[listener])
        started.set()
        try:
            await uvicorn_server.main_loop()
        finally:
            await uvicorn_server.shutdown(sockets=[listener])

    future = asyncio.run_coroutine_threadsafe(run(), loop.loop)
    while not started.wait(0.01):
        if future.done():
            future.result()
    try:
        yield RunningServer(f"http://127.0.0.1:{listener.getsockname()[1]}", server, uvicorn_server)
    finally:
        uvicorn_server.should_exit = True
        future.result(30)
        listener.close()
