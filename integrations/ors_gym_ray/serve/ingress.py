"""The ingress: a sticky proxy between Ray Serve's proxies and the replicas."""

from __future__ import annotations

import itertools
import time
from typing import Any

from ors_gym.http.answers import RefusedError
from ors_gym.http.proxy import StickyProxy
from ors_gym_ray.serve.registry import replica_of

__all__ = ["Ingress"]

REFRESH_SECONDS = 2.0
"""Seconds for which a list of replicas is reused for requests without a session."""


class Ingress:
    """The ingress deployment: forwards each request to the replica that holds its session.

    Serve itself cannot: it sends nothing more to a replica that it is stopping, and a session's later requests must
    reach that replica until the session has ended.
    """

    def __init__(self, registry: Any, replicas: Any, max_request_bytes: int) -> None:
        del replicas  # reached by their URLs; bound here to be part of the Serve application
        self._proxy = StickyProxy(ReplicaBackends(registry), max_request_bytes=max_request_bytes)

    def __serve_build_asgi_app__(self) -> StickyProxy:
        """The ASGI application, which Serve asks for after the constructor."""
        return self._proxy


class ReplicaBackends:
    """The replicas as a proxy sees them. ``registry`` is a handle to the deployment of that name."""

    def __init__(self, registry: Any) -> None:
        self._registry = registry
        self._urls: dict[str, str] = {}
        self._turns = itertools.count()
        self._any: list[str] = []
        self._any_until = 0.0

    async def place(self) -> str:
        """An id on the replica that has the fewest sessions."""
        placed: str | RefusedError = await self._registry.place.remote()
        if isinstance(placed, RefusedError):
            raise placed
        return placed

    async def find(self, session_id: str) -> str:
        """The replica whose name is in the session's id."""
        replica = replica_of(session_id)
        if not replica:
            raise RefusedError(404, "no such session: ask /create_session for an id")
        url = self._urls.get(replica)
        if url is None:
            found: str | None = await self._registry.find.remote(replica)
            if found is None:
                raise RefusedError(404, "the session is lost: the replica that held it is gone")
            url = self._urls[replica] = found
        return url

    async def any(self) -> str:
        """The next replica, round robin."""
        now = time.monotonic()
        if not self._any or now > self._any_until:
            self._any = await self._registry.replicas.remote()
            self._any_until = now + REFRESH_SECONDS
        if not self._any:
            raise RefusedError(503, "a replica is starting", 1)
        return self._any[next(self._turns) % len(self._any)]

    async def unreachable(self, url: str) -> RefusedError:
        """The error for a replica that cannot be reached: lost if it also sends no reports, otherwise temporary."""
        self._any = []
        replica = next((name for name, known in self._urls.items() if known == url), None)
        if replica is not None:
            del self._urls[replica]
            if await self._registry.suspect.remote(replica):
                return RefusedError(404, "the session is lost: the replica that held it is gone")
        return RefusedError(503, "the replica cannot be reached", 1)
