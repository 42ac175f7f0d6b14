"""Choice of the transport for a client's requests."""

from __future__ import annotations

import sys

import httpx

from ors_gym.http.asyncio_transport import KEEPALIVE_SECONDS, AsyncioTransport
from ors_gym.http.httpx_transport import HTTPXClient, HTTPXTransport
from ors_gym.http.proxies import ProxyServer, proxy_for
from ors_gym.http.tls import Certificate, Verify, make_tls_context
from ors_gym.http.transport import Transport

__all__ = ["files_allowed", "make_transport"]


def make_transport(
    base: str,
    connect_seconds: float,
    transport: httpx.AsyncBaseTransport | None = None,
    http_client: HTTPXClient | None = None,
    auth: httpx.Auth | tuple[str, str] | None = None,
    proxy: httpx.Proxy | str | None = None,
    verify: Verify = True,
    cert: Certificate | None = None,
) -> Transport:
    """The asyncio transport, unless something needs httpx.

    Raises:
        ValueError: a proxy or a certificate that cannot be used.
    """
    if http_client is not None:
        return HTTPXTransport(http_client, owned=False, knows_unsent=False, connect_seconds=connect_seconds)
    named = None
    if isinstance(proxy, str):
        named = ProxyServer.named(proxy, "proxy")
    elif proxy is None and transport is None:
        named = proxy_for(base)
    trusted: Verify = verify
    if cert is not None or not isinstance(verify, bool) or base.startswith("https:"):
        trusted = make_tls_context(verify, cert)
    plain = transport is None and auth is None and not isinstance(proxy, httpx.Proxy)
    if plain and (named is None or named.scheme == "http"):
        return AsyncioTransport(connect_seconds=connect_seconds, verify=trusted, proxy=named)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE_SECONDS)
    try:
        client = httpx.AsyncClient(
            transport=transport,
            auth=auth,
            proxy=proxy if isinstance(proxy, httpx.Proxy) else named.url if named else None,
            verify=trusted if isinstance(trusted, bool) else make_tls_context(trusted),
            trust_env=False,  # the proxy and the certificates are chosen here
            limits=limits,
        )
    except ImportError:
        shown = named.shown if named else "that was given"
        raise ValueError(f"the proxy {shown} needs a package: pip install 'httpx[socks]'") from None
    return HTTPXTransport(
        client, owned=True, knows_unsent=transport is None, connect_seconds=connect_seconds, proxy=named
    )


def files_allowed() -> int:
    """Maximum open files of this process, sockets included."""
    if sys.platform == "win32":
        return 8192
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft
