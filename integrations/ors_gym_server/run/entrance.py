"""In front of the application: the prefix of a proxy's paths, and the allowed host names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from ors_gym.http.answers import ASGIApp, Receive, RefusedError, Scope, Send, refuse

__all__ = ["Entrance", "is_loopback"]


PRIVATE = (".localhost", ".internal")
"""Domains that no one can register; neither can a name without a dot be."""


class Entrance:
    """An ASGI application that checks path prefix and host before it forwards a request.

    Args:
        app: The application.
        root_path: The prefix that a proxy in front leaves before the paths, such as ``/envs``; paths without it are
            served too, for proxies that take it off.
        hosts: The names in the header ``Host`` that are served, beside addresses and names that no one can register,
            such as ``localhost``; None for all names. A server that needs no key is open to every page that a browser
            on this machine shows, if the page's host name is made to point here (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, *, root_path: str = "", hosts: Iterable[str] | None = None) -> None:
        self._app = app
        self._root_path = root_path.rstrip("/")
        if self._root_path and not self._root_path.startswith("/"):
            raise ValueError(f"the root path must begin with /, not {root_path!r}")
        self._hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http":
            if self._hosts is not None:
                for name, value in scope["headers"]:
                    if name == b"host" and not self._is_served(value):
                        await refuse(send, _misdirected(value))
                        return
            root = self._root_path
            if root and (scope["path"] == root or scope["path"].startswith(f"{root}/")):
                scope = {**scope, "root_path": root}
        try:
            await self._app(scope, receive, send)
        except RuntimeError as error:
            if "the handler is closed" not in str(error):  # uvloop's words: the client has left in this moment
                raise

    def _is_served(self, header: bytes) -> bool:
        host = header.decode("latin-1").strip().lower()
        if host.startswith("["):
            host = host[1:].partition("]")[0]
        elif host.count(":") == 1:
            host = host.partition(":")[0]
        host = host.removesuffix(".")
        private = host != "" and ("." not in host or host.endswith(PRIVATE))
        return private or host in (self._hosts or ()) or _is_address(host)


def _misdirected(header: bytes) -> RefusedError:
    host = header.decode("latin-1")[:100]
    return RefusedError(
        403,
        f"a server without a key answers to local names and addresses, not to {host!r}: set a key, or allow the host",
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens at ``host``."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
