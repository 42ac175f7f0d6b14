"""Limits of each kind of wait."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ors_gym.client.arguments import check_number
from ors_gym.http.retry import RetryBudget

__all__ = ["Timeouts"]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of the client's waits in seconds. None, where allowed, means no limit."""

    connect_seconds: float = 10.0
    """To make a connection, name resolution and TLS included."""
    request_seconds: float = 120.0
    """For the whole answer to a request other than a tool call. ``/prompt`` may wait for the environment's set-up."""
    first_event_seconds: float = 120.0
    """From sending a call to the first event of its answer. Later the call is ambiguous and the session ends."""
    silence_seconds: float = 45.0
    """Between two events of a call's answer, after which the call is resumed; servers send a comment every 10 s."""
    call_seconds: float | None = 1800.0
    """For a whole tool call, waits and resumptions included; None for tools without a limit."""
    resume_seconds: float = 60.0
    """For resuming a running call after its connection broke. Servers keep a result for 60 s."""
    starting_seconds: float = 600.0
    """For an environment that answers 503 "starting". Hosted ones take up to ten minutes."""
    capacity_seconds: float = 600.0
    """For a server that answers 429, at capacity."""
    close_seconds: float = 30.0
    """For deleting a session on the server, teardown included; and, closing a client, for all that are left."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value: float | None = getattr(self, item.name)
            if value is None and item.name == "call_seconds":
                continue
            check_number(f"Timeouts.{item.name}", value, none=False)
            if value is None or not value > 0:
                raise ValueError(f"Timeouts.{item.name} must be a positive number of seconds, got {value!r}")

    def retry_budget(self) -> RetryBudget:
        """The time that one request may wait for a server that is starting or full."""
        return RetryBudget(starting_seconds=self.starting_seconds, capacity_seconds=self.capacity_seconds)
