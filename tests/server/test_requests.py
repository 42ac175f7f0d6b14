"""Any request is answered, whatever is in it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ors_gym_server import create_app
from tests.support.server_environments import Forge

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
)


FIELDS = st.sampled_from(
    ["name", "input", "task_id", "split", "index", "start", "stop", "task_spec", "candidates", "x"]
)


BODIES = st.binary(max_size=40) | st.dictionaries(FIELDS, JSON | st.just({}) | st.just("train"), max_size=5).map(
    lambda value: json.dumps(value).encode()
)


PATHS = st.sampled_from(
    ["/call", "/forge/call", "/create", "/score_group", "/task", "/tasks", "/task_range", "/ping", "//"]
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(PATHS, BODIES, st.binary(max_size=9), st.binary(max_size=30))
def test_any_request_is_answered_and_never_with_500(path: str, body: bytes, sid: bytes, secrets: bytes):
    app = create_app([Forge])
    statuses: list[int] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def conversation() -> None:
        headers = [(b"x-session-id", sid), (b"x-secrets", secrets)]
        await app({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)
        await app.aclose()

    asyncio.run(conversation())
    assert len(statuses) == 1
    assert statuses[0] < 500
