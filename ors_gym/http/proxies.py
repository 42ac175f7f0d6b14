"""The proxy for a server: from the environment, never for this machine itself."""

from __future__ import annotations

import base64
import ipaddress
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

__all__ = ["ProxyServer", "is_loopback", "proxy_for"]


@dataclass(frozen=True, slots=True)
class ProxyServer:
    """A proxy."""

    url: str
    """With credentials."""
    shown: str
    """Without credentials, with the name of the setting that it comes from."""

    @classmethod
    def named(cls, url: str, setting: str) -> ProxyServer:
        """Check a proxy's URL.

        Raises:
            ValueError: the URL is wrong; the message names the setting.
        """
        url = url if "://" in url else f"http://{url}"
        bare = f"{url.partition('://')[0]}://{url.partition('://')[2].rpartition('@')[2]}"
        shown = f"{bare.rstrip('/')} ({setting})"
        with suppress(ValueError):
            parts = urlsplit(url)
            if parts.hostname and parts.port != 0 and parts.scheme in ("http", "https", "socks5", "socks5h"):
                return cls(url, shown)
        raise ValueError(f"no proxy that can be used: {shown}")

    @property
    def scheme(self) -> str:
        """``http``, or what only httpx can carry: ``https``, ``socks5``, ``socks5h``."""
        return urlsplit(self.url).scheme

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def authorization(self) -> str:
        """The header line that holds the credentials, empty without any."""
        parts = urlsplit(self.url)
        if parts.username is None:
            return ""
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return f"Proxy-Authorization: Basic {base64.b64encode(credentials.encode()).decode()}\r\n"


def proxy_for(url: str) -> ProxyServer | None:
    """The proxy that the environment (``HTTPS_PROXY``, ``NO_PROXY``, …) names for a server.

    Raises:
        ValueError: it names one that cannot be used.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host):
        return None
    proxies = urllib.request.getproxies()
    scheme = next((scheme for scheme in (parts.scheme, "all") if proxies.get(scheme)), None)
    if scheme is None or _bypassed(host, parts.netloc.rpartition("@")[2], proxies.get("no", "")):
        return None
    return ProxyServer.named(proxies[scheme], f"{scheme.upper()}_PROXY")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name or address."""
    address = _address(host)
    return host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback)


def _bypassed(host: str, netloc: str, no_proxy: str) -> bool:
    """Whether ``NO_PROXY`` names a host: by name, suffix, address, range of addresses (CIDR), or with its port."""
    address = _address(host)
    if address is not None:
        for entry in no_proxy.split(","):
            try:
                network = ipaddress.ip_network(entry.strip().strip("[]"), strict=False)
            except ValueError:
                continue
            if address in network:
                return True
    return bool(urllib.request.proxy_bypass(netloc))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
