"""The cookies by which a balancer finds a session again."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["SessionCookies"]


class SessionCookies:
    """The cookies that ``/create_session`` and ``/create`` set, sent with the session's further requests."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def take(self, headers: Mapping[str, str]) -> None:
        """Keep the cookies of an answer; transports give each its own line."""
        for line in headers.get("set-cookie", "").splitlines():
            name, _, value = line.partition(";")[0].partition("=")
            if name.strip():
                self._values[name.strip()] = value.strip()

    def put(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers with the cookies in addition to the user's."""
        if not self._values:
            return dict(headers)
        rest = {name: value for name, value in headers.items() if name.lower() != "cookie"}
        own = [value for name, value in headers.items() if name.lower() == "cookie"]
        return rest | {"Cookie": "; ".join([*own, *(f"{name}={value}" for name, value in self._values.items())])}
