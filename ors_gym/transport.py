"""Which wire carries a client's requests, and how many at once."""

from __future__ import annotations

import ssl
import sys
import urllib.request
from urllib.parse import urlsplit

import httpx

from ors_gym.fastwire import KEEPALIVE_SECONDS, FastWire
from ors_gym.timeouts import Timeouts
from ors_gym.wire import HTTPXWire, Wire

__all__ = ["files_allowed", "make_wire"]


def make_wire(
    base: str,
    timeouts: Timeouts,
    transport: httpx.AsyncBaseTransport | None,
    http_client: httpx.AsyncClient | None,
    auth: httpx.Auth | tuple[str, str] | None,
    proxy: httpx.Proxy | str | None,
    verify: ssl.SSLContext | bool,
) -> Wire:
    """The fast wire, unless something needs httpx."""
    seconds = timeouts.connect_seconds
    if http_client is not None:
        return HTTPXWire(http_client, owned=False, knows_unsent=False, connect_seconds=seconds)
    if transport is None and auth is None and proxy is None and not _proxied(base):
        return FastWire(connect_seconds=seconds, verify=verify)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE_SECONDS)
    client = httpx.AsyncClient(transport=transport, auth=auth, proxy=proxy, verify=verify, limits=limits)
    return HTTPXWire(client, owned=True, knows_unsent=transport is None, connect_seconds=seconds)


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
