"""The URL of a server, checked where it is given."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

__all__ = ["ServerURL", "host_of"]

IN_BRACKETS = "an IPv6 address stands in brackets in a url, as in http://[::1]:8080"
A_PORT = "a port is a number from 1 to 65535"

_CREDENTIALS = re.compile("//.*@", re.DOTALL)  # also of a password with a slash, which ends the host


@dataclass(frozen=True, slots=True)
class ServerURL:
    """A parsed server URL."""

    text: str
    """The URL for display, without credentials; a non-ASCII path is percent-encoded."""
    username: str | None
    password: str | None

    @classmethod
    def parse(cls, url: Any, *, query: bool = False) -> ServerURL:
        """Check a URL; ``query`` allows one.

        Raises:
            ValueError: with what is wrong, without the credentials.
        """
        if not isinstance(url, str):
            raise ValueError(f"a server's url is text, got {type(url).__name__}")
        shown = _CREDENTIALS.sub("//", url, count=1)
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{_words(url, str(error))}, got {shown!r}") from None
        fault = _fault(url, parts, port, query=query)
        if fault:
            raise ValueError(f"{fault}, got {shown!r}")
        netloc = parts.netloc.rpartition("@")[2]
        path = quote(parts.path, safe="/%:@!$&'()*+,;=~-._")
        text = urlunsplit((parts.scheme, netloc, path, parts.query, ""))
        password = None if parts.password is None else unquote(parts.password)
        return cls(text, None if parts.username is None else unquote(parts.username), password)


def host_of(name: str) -> str:
    """A host name as DNS takes it.

    Raises:
        ValueError: it is none.
    """
    try:
        return name.encode("idna").decode()
    except UnicodeError:
        raise ValueError(f"{name!r} is no host name") from None


def _fault(url: str, parts: SplitResult, port: int | None, *, query: bool) -> str:
    """The problem of a URL."""
    if any(character.isspace() or not character.isprintable() for character in url):
        return "a server's url holds no blanks and no control characters"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "an ORS server's url begins with http:// or https:// and a host"
    if parts.fragment or (parts.query and not query) or url.endswith(("?", "#")):
        return "a server's url has no query and no fragment"
    if port == 0:
        return A_PORT
    if ":" in parts.hostname and "[" not in parts.netloc:
        return IN_BRACKETS
    if ":" in parts.hostname:
        try:
            ipaddress.ip_address(parts.hostname)
        except ValueError:
            return "the host in brackets is no IPv6 address"
    else:
        try:
            host_of(parts.hostname)
        except ValueError as error:
            return str(error)
    return ""


def _words(url: str, reason: str) -> str:
    """The standard library's error in the user's terms."""
    host = url.partition("//")[2].partition("/")[0].rpartition("@")[2]
    if host.count(":") > 1 or "[" in host or "]" in host:
        return IN_BRACKETS
    return A_PORT if "port" in reason.lower() else reason
