"""A replica: one server with its own address and sessions, stopped when its sessions have ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Generator, MutableMapping
from typing import Any

import ray
import uvicorn
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from ors_gym.http.answers import ASGIApp
from ors_gym_ray.serve.registry import REPORT_SECONDS, Heartbeat, HeartbeatReply, replica_of

__all__ = ["Replica"]

logger = logging.getLogger(__name__)

MIN_REPORT_SECONDS = 0.05
"""Minimum interval between two reports."""

STATUS_SECONDS = 1.0
"""Interval at which a draining replica checks whether the whole application is being deleted."""

REPORT_TIMEOUT_SECONDS = 5.0
"""Time after which an unanswered report is sent again."""


class Replica:
    """The deployment whose replicas hold the sessions.

    Args:
        registry: A handle to the :class:`~ors_gym_ray.serve.registry.Registry`.
        app_factory: Makes the server; its attribute ``num_sessions`` is the number of open sessions.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, registry: Any, app_factory: Callable[[], ASGIApp]
    ) -> None:
        context = serve.get_replica_context()
        self._name = context.replica_tag
        self._app_name = context.app_name
        self._registry = registry
        self._app = app_factory()
        self._created: list[str] = []
        self._reply = HeartbeatReply(0, 0.0)
        self._draining = False
        self._known_to_drain = False
        self._changed = asyncio.Event()
        self._num_sessions()  # if it cannot be asked, that is said now
        self._listener = _listen()
        address, port = self._listener.getsockname()[:2]
        self._url = f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
        self._server = _server(self._gate, getattr(self._app, "http_protocol", "auto"))
        self._serving = asyncio.create_task(self._server.serve([self._listener]))
        while not self._server.started:
            await asyncio.sleep(0.01)
            if self._serving.done():
                raise RuntimeError("the server did not start; the log of the replica says why") from (
                    self._serving.exception()
                )
        self._reporting = asyncio.create_task(self._keep_reporting())

    # ---------------------------------------------------------------- called by Serve

    def record_autoscaling_stats(self) -> dict[str, float]:
        """The sessions that the autoscaling policy counts, with those that wait for a place."""
        return {"sessions": self._num_sessions() + self._reply.num_coming + self._reply.num_waiting}

    def check_health(self) -> None:
        """Whether the server runs."""
        if self._serving.done() or self._reporting.done():
            raise RuntimeError("the server has stopped")

    async def __del__(self) -> None:
        """Stop when the last session has ended. Serve awaits this before it ends the process."""
        self._draining = True
        self._changed.set()
        deleted = asyncio.create_task(self._until_deleted())
        while not deleted.done() and not self._is_empty:
            await asyncio.wait([deleted], timeout=MIN_REPORT_SECONDS)
        deleted.cancel()
        self._reporting.cancel()
        self._server.should_exit = True
        await self._serving
        with contextlib.suppress(RayError, RayServeException, TimeoutError):  # the registry may be gone already
            async with asyncio.timeout(REPORT_TIMEOUT_SECONDS):
                await self._registry.leave.remote(self._name)

    # ---------------------------------------------------------------- internal

    def _num_sessions(self) -> int:
        app: Any = self._app
        return int(app.num_sessions)

    @property
    def _is_empty(self) -> bool:
        """Whether the registry knows that this replica drains, and no session is open or about to be created."""
        return self._known_to_drain and not self._reply.num_coming and not self._num_sessions()

    async def _gate(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """The server, with a note of the sessions that are created and deleted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        session_id = headers.get(b"x-session-id", b"").decode("latin-1").strip()
        if session_id and replica_of(session_id) != self._name:  # for another replica that had this address before
            await send(
                {"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"application/json")]}
            )
            await send(
                {"type": "http.response.body", "body": b'{"detail": "the session is lost: its replica is gone"}'}
            )
            return
        try:
            await self._app(scope, receive, send)
        finally:
            endpoint = scope["path"].rpartition("/")[2]
            if endpoint == "create":
                self._created.append(session_id)
            if endpoint in ("create", "delete", "delete_session"):
                self._changed.set()

    async def _keep_reporting(self) -> None:
        while True:
            self._changed.clear()
            created, self._created = self._created, []
            draining = self._draining
            report = Heartbeat(self._name, self._url, self._num_sessions(), created, draining)
            try:
                async with asyncio.timeout(REPORT_TIMEOUT_SECONDS):
                    self._reply = await self._registry.report.remote(report)
                self._known_to_drain = draining
            except (RayError, RayServeException, TimeoutError) as error:  # the registry is being restarted or deleted
                self._created = [*created, *self._created]
                logger.info("the registry does not answer: %s", error)
            await asyncio.sleep(MIN_REPORT_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS):
                    await self._changed.wait()

    async def _until_deleted(self) -> None:
        """Wait until the whole application is being deleted: then no request comes any more, and no session ends."""
        while True:
            with contextlib.suppress(RayError, RayServeException):  # the controller is being restarted
                application = (await asyncio.to_thread(serve.status)).applications.get(self._app_name)
                if application is not None and application.status == "DELETING":
                    return
            await asyncio.sleep(STATUS_SECONDS)


class _Server(uvicorn.Server):
    """Leaves the signals of its process to Ray."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        """Every second, end connections with incomplete requests that made no progress."""
        if counter % 10 == 0:
            for connection in list(self.server_state.connections):
                if (end := getattr(connection, "end_if_overdue", None)) is not None:
                    end(asyncio.get_running_loop().time())
        return await super().on_tick(counter)


def _server(app: Any, http_protocol: Any) -> _Server:
    config = uvicorn.Config(
        app,
        http=http_protocol,
        interface="asgi3",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=4096,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )
    return _Server(config)


def _listen() -> socket.socket:
    """A socket on the address by which other nodes reach this one."""
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    family, kind, protocol, _, where = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    listener.bind(where)
    return listener
