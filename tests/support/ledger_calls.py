"""One session with one call through a faulty proxy."""

from __future__ import annotations

from collections.abc import Callable

from ors_gym.client.client import ORSClient, Timeouts
from ors_gym.errors import (
    ORSError,
)
from tests.support.faulty_proxy import Fault, FaultyProxy, ProxiedRequest

QUICK = Timeouts(first_event_seconds=0.4, silence_seconds=0.4, resume_seconds=2.0, close_seconds=5.0)


def on_call(fault: Fault, *, times: int = 1, path: str = "/call") -> Callable[[ProxiedRequest], Fault | None]:
    """Do ``fault`` to the first ``times`` requests of this path."""
    left = times

    def plan(request: ProxiedRequest) -> Fault | None:
        nonlocal left
        if not request.path.endswith(path) or left <= 0:
            return None
        left -= 1
        return fault

    return plan


async def play(
    upstream: str,
    plan: Callable[[ProxiedRequest], Fault | None],
    *,
    key: str,
    timeouts: Timeouts = Timeouts(),  # noqa: B008
    text: str = "done",
) -> tuple[str | ORSError, FaultyProxy]:
    """One session with one call through a faulty proxy: the call's text or its error."""
    async with FaultyProxy(upstream, plan) as proxy, ORSClient(proxy.url, timeouts=timeouts) as client:
        async with client.session("ledger", split="train", index=0) as session:
            try:
                output = await session.call_tool("work", {"key": key, "text": text})
            except ORSError as error:
                return error, proxy
            return output.text, proxy
