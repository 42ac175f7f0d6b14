"""A double of the hosted platform: the reference's servers as deployments behind the hosts ``api.`` and ``sessions.``.

It is an HTTP proxy too, so that clients reach it by the platform's host names: ``HTTP_PROXY`` is its URL.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from openreward.environments import Environment, Server

__all__ = ["HostedPlatform"]


class HostedPlatform:
    """An ASGI application.

    Args:
        deployments: environments' classes by ``owner/name``.
        required_secrets: names by ``owner/name``.
        api_answers: whether ``api.`` answers requests without a session, as the specification has it; the reference
            client asks ``sessions.`` for everything.
    """

    def __init__(
        self,
        deployments: Mapping[str, Sequence[type[Environment]]],
        required_secrets: Mapping[str, Sequence[str]] | None = None,
        *,
        api_answers: bool = False,
    ) -> None:
        self.servers = {name: Server(list(classes)) for name, classes in deployments.items()}
        self.required_secrets = required_secrets or {}
        self.api_answers = api_answers
        self.requests: list[tuple[str, str, Mapping[str, str]]] = []
        """Host, path and headers of each request."""
        self._of_session: dict[str, str] = {}

    @property
    def live_sessions(self) -> int:
        return sum(len(server._active_envs) for server in self.servers.values())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path = urlsplit(scope["path"]).path  # a proxy is asked for whole URLs
        host = headers["host"]
        self.requests.append((host, path, headers))
        if path == "/v1/environments" and headers.get("x-api-key"):
            listed = [dict(zip(("owner", "name"), name.split("/"), strict=True)) for name in self.servers]
            await _answer(send, 200, {"environments": listed, "total": len(listed)})
            return
        if path.startswith("/v1/environments/"):
            name = "/".join(path.split("/")[3:5])
            await _answer(send, 200, {"secrets": list(self.required_secrets.get(name, ()))})
            return
        if not headers.get("x-api-key"):
            await _answer(send, 401, {"detail": "no key"})
            return
        deployment = headers.get("x-deployment") or self._of_session.get(headers.get("x-session-id", ""), "")
        server = self.servers.get(deployment)
        if server is None or not (host.startswith("sessions.") or self.api_answers):
            await _answer(send, 404, {"detail": "Not Found"})
            return
        if "x-session-id" in headers:
            self._of_session[headers["x-session-id"]] = deployment
        await server.app({**scope, "path": path, "raw_path": path.encode()}, receive, send)


async def _answer(send: Any, status: int, body: Any) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
