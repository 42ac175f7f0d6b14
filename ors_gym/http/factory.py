"""Which transport carries a client's requests, and how many at once."""

from __future__ import annotations

import ssl
import sys
import urllib.request
from urllib.parse import urlsplit

import httpx

from ors_gym.http.asyncio_transport import KEEPALIVE_SECONDS, AsyncioTransport
from ors_gym.http.httpx_transport import HTTPXTransport
from ors_gym.http.transport import Transport

__all__ = ["files_allowed", "make_transport"]


def make_transport(
    base: str,
    connect_seconds: float,
    transport: httpx.AsyncBaseTransport | None,
    http_client: httpx.AsyncClient | None,
    auth: httpx.Auth | tuple[str, str] | None,
    proxy: httpx.Proxy | str | None,
    verify: ssl.SSLContext | bool,
) -> Transport:
    """The asyncio transport, unless something needs httpx."""
    if http_client is not None:
        return HTTPXTransport(http_client, owned=False, knows_unsent=False, connect_seconds=connect_seconds)
    if transport is None and auth is None and proxy is None and not _proxied(base):
        return AsyncioTransport(connect_seconds=connect_seconds, verify=verify)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE_SECONDS)
    client = httpx.AsyncClient(transport=transport, auth=auth, proxy=proxy, verify=verify, limits=limits)
    return HTTPXTransport(client, owned=True, knows_unsent=transport is None, connect_seconds=connect_seconds)


def files_allowed() -> int:
    """How many files, sockets among them, this process may have open."""
    if sys.platform == "win32":
        return 8192
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def _proxied(url: str) -> bool:
    """Whether the environment names a proxy for ``url``."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    return bool({parts.scheme, "all"} & proxies.keys()) and not urllib.request.proxy_bypass(parts.hostname or "")
