"""When an HTTP request is retried, and after what delay."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from ors_gym.http.transport import TransportResponse

__all__ = ["RetryBudget", "backoff_seconds", "is_gateway_failure", "is_starting", "retry_after_seconds"]


class RetryBudget:
    """The time that one request may still wait for a server that is starting or full."""

    def __init__(self, *, starting_seconds: float, capacity_seconds: float) -> None:
        self._limits = {503: starting_seconds, 429: capacity_seconds}
        self._deadlines: dict[int, float] = {}
        self._waits = 0

    async def wait(self, response: TransportResponse, *, repeatable: bool = False) -> bool:
        """Wait as long as the answer asks for; return whether the request may be sent again.

        False at once when the answer does not ask for a retry or the time is up. A 503 that does not say that nothing
        ran is retried only if the request is repeatable and the answer comes from a gateway: an HTML page, or one with
        ``Retry-After``.
        """
        status = response.status
        waits = status == 429 or (status == 503 and is_starting(response.headers))
        if not waits and not (status == 503 and repeatable and _is_waking(response.headers)):
            return False
        now = time.monotonic()
        left = self._deadlines.setdefault(status, now + self._limits[status]) - now
        if left <= 0:
            return False
        asked = retry_after_seconds(response.headers)
        delay = backoff_seconds(self._waits, 0.5, 10.0) if asked is None else max(asked, 0.05)
        self._waits += 1
        await asyncio.sleep(min(delay, left))
        return True


def is_starting(headers: Mapping[str, str]) -> bool:
    """Whether a 503 comes from an environment that is still starting: nothing ran."""
    return headers.get("x-backend-state", "").strip().lower() == "starting"


def _is_waking(headers: Mapping[str, str]) -> bool:
    return "retry-after" in headers or headers.get("content-type", "").startswith("text/html")


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Read ``Retry-After``, seconds or an HTTP date; None if it is absent or unreadable."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time()
        except (ValueError, OverflowError, TypeError, IndexError):  # a date of any year, or none
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def backoff_seconds(attempt: int, first: float, longest: float) -> float:
    """Exponential back-off with jitter: doubles with each attempt, shortened at random by up to half."""
    return min(longest, first * 2.0 ** min(attempt, 30)) * random.uniform(0.5, 1.0)


def is_gateway_failure(response: TransportResponse) -> bool:
    """Whether the answer comes from a gateway that does not know whether the request ran."""
    return response.status in (502, 504) or (response.status == 503 and not is_starting(response.headers))
