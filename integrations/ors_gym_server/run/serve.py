"""Runs the server: uvicorn on uvloop and httptools, with sessions drained before it stops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import uvicorn

from ors_gym.http.answers import ASGIApp
from ors_gym_server.asgi.app import create_app
from ors_gym_server.asgi.protocol import limited_protocol, sweep
from ors_gym_server.run.children import become_init, end_children, not_inherited
from ors_gym_server.run.entrance import Entrance, is_loopback
from ors_gym_server.runtime.limits import Limits

__all__ = ["default_port", "listen", "run_app", "serve"]

GC_THRESHOLDS = (10_000, 50, 50)
"""The server makes almost no cyclic garbage, so collections may be rarer than every 700 objects; a larger number would
make each pause longer."""

SWITCH_SECONDS = 0.001
"""Seconds that a synchronous tool may hold the interpreter while the event loop waits; Python's default is 0.005."""


def serve(
    environments: Sequence[type],
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    api_key: str | None = None,
    open_to_all: bool = False,
    limits: Limits | None = None,
    toolsets: Mapping[str, type] | None = None,
    workers: int = 1,
    isolated: int | None = None,
    drain_seconds: float = 30.0,
    root_path: str = "",
    allowed_hosts: Sequence[str] = (),
    before: Callable[[], None] | None = None,
    started: Callable[[str], None] | None = None,
) -> None:
    """Serve environments until SIGTERM or Ctrl-C.

    Then no new connections are accepted, running calls have ``drain_seconds`` to end, and each session's ``teardown``
    runs, within three times ``Limits.teardown_seconds``. After that the child processes of environments are ended. As
    the first process of a container it also reaps orphans.

    Args:
        environments: as for :func:`~ors_gym_server.create_app`, like ``limits`` and ``toolsets``.
        host: the address to listen at.
        port: the port, 0 for a free one.
        api_key: what clients must send. Needed when other machines can reach ``host``.
        open_to_all: other machines may connect without a key.
        limits: limits of the server.
        toolsets: toolset classes that clients may request by name.
        workers: number of processes that hold the sessions, behind one proxy process. A worker that crashes loses its
            own sessions and is replaced. ``limits`` apply to each worker. Needs ``os.fork``.
        isolated: number of processes that each hold one session at a time, for environments that share state between
            sessions (``random.seed``, files, a screen); clients wait for a free one. Instead of ``workers``.
        drain_seconds: how long running calls may take to end; after that they are ended with their sessions.
        root_path: the prefix that a proxy in front leaves before the paths.
        allowed_hosts: host names under which clients reach a server without a key that listens on loopback only, where
            it is not ``localhost``: requests for other names come from a web page that was made to point here.
        before: called before the server answers, when its arguments and address are known to be right; what it raises
            is raised.
        started: called with the server's URL when it answers.

    Raises:
        RuntimeError: a worker process could not start.
        TypeError, ValueError: something is wrong with an environment class, or with an argument; ``host`` is open to
            other machines and there is neither a key nor ``open_to_all``.
        OSError: the address is taken.
    """
    if api_key is None and not open_to_all and not is_loopback(host):
        raise ValueError(
            f"{host} can be reached from other machines, and without a key anyone who reaches it can run tools: "
            "pass api_key, or open_to_all=True if that is meant"
        )
    if isolated is not None:
        if workers != 1:
            raise ValueError("isolated and workers both say how many processes there are: give one")
        workers, limits = isolated, replace(limits or Limits(), max_sessions=1)
    if workers < 1:
        raise ValueError(f"there must be at least one worker, not {workers}")
    if workers > 1 and not hasattr(os, "fork"):
        raise ValueError(f"workers={workers} needs os.fork, which {sys.platform} has not: serve with one process")
    if not 0 <= port < 2**16:  # getaddrinfo would take the lower 16 bits of it
        raise ValueError(f"the port must be from 0 to 65535, not {port}")
    app = create_app(environments, api_key=api_key, limits=limits, toolsets=toolsets)
    hosts = allowed_hosts if api_key is None and is_loopback(host) else None
    entrance = partial(Entrance, root_path=root_path, hosts=hosts)
    entrance(app)  # report wrong arguments now
    listener = listen(host, port)
    address, bound = listener.getsockname()[:2]
    url = f"http://[{address}]:{bound}" if ":" in address else f"http://{address}:{bound}"
    run = partial(run_app, limits=app.limits, drain_seconds=drain_seconds)
    switch, thresholds = sys.getswitchinterval(), gc.get_threshold()

    def announce() -> None:
        if started is not None:
            started(url)

    try:
        if before is not None:
            before()
        sys.setswitchinterval(SWITCH_SECONDS)
        gc.set_threshold(*GC_THRESHOLDS)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises what stopped it again, when it has stopped
            if os.getpid() == 1:
                become_init()
            if workers == 1:
                run(entrance(app), listener, announce)
            else:
                from ors_gym_server.run.workers import Prefork  # where there is no fork, it cannot even be imported

                Prefork(app, listener, run, workers, entrance=entrance, drain_seconds=drain_seconds).run(announce)
    finally:
        sys.setswitchinterval(switch)
        gc.set_threshold(*thresholds)
        listener.close()


def default_port() -> int:
    """The port of the variable ``PORT``, which platforms that run containers set; 8080 without it.

    Raises:
        ValueError: it is no number.
    """
    port = os.environ.get("PORT") or "8080"
    if not port.isdecimal() or len(port) > 5:
        raise ValueError(f"the variable PORT is {port!r}, which is no port")
    return int(port)


def run_app(
    app: ASGIApp,
    listener: socket.socket,
    ready: Callable[[], None],
    tick: Callable[[], None] | None = None,
    *,
    limits: Limits,
    drain_seconds: float,
) -> None:
    """Serve an application until SIGTERM or Ctrl-C."""
    config = uvicorn.Config(
        app,
        http=limited_protocol(limits),
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        backlog=4096,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
    )
    with not_inherited(listener):
        _Server(config, ready, tick).run([listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], tick: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._ready = ready
        self._tick = tick
        self._children_before = multiprocessing.active_children()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # modules and classes live as long as the process: not to be looked at again
        asyncio.get_running_loop().call_soon(self._ready)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:  # a second Ctrl-C, which calls do not survive, and sessions not without a teardown
            await self.lifespan.shutdown()
        end_children(self._children_before)  # here: the signal that stopped the server may end the process after this

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # a second has gone by
            sweep(self.server_state.connections, asyncio.get_running_loop().time())
        if self._tick is not None:
            self._tick()
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address.

    Raises:
        OSError: it is taken.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform == "win32":  # there SO_REUSEADDR lets two servers have one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
