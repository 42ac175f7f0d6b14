"""Limits of a server."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a server. Durations are in seconds, sizes in bytes."""

    max_sessions: int = 1024
    """Maximum sessions; more are refused with 429."""
    max_calls_per_session: int = 64
    """Maximum concurrent calls of a session; more are refused with 429."""
    session_timeout_seconds: float = 900.0
    """Idle time, without a request or a running call, after which a session is closed."""
    tool_timeout_seconds: float = 3600.0
    """Maximum duration of a tool. A longer one fails with its session, whose state is unknown."""
    setup_wait_seconds: float = 25.0
    """Seconds that a request waits for the session's setup before a 503 that asks for a retry."""
    teardown_seconds: float = 10.0
    """Maximum duration of a teardown, and of code that still runs in the session before it."""
    max_request_bytes: int = 16 * 2**20
    """Maximum size of a request; larger ones are refused with 413."""
    max_kept_bytes: int = 128 * 2**20
    """Results of ended calls kept over all sessions for clients that resume."""
    max_kept_seconds: float = 60.0
    """Seconds for which a result is kept."""
    max_remembered_calls: int = 10_000
    """Ended calls that a session remembers after that, so that a repeated call does not run again."""
    header_seconds: float = 30.0
    """Seconds that a connection may take to send a header section before it is closed."""
    max_header_bytes: int = 64 * 2**10
    """Maximum size of a header section; larger ones are refused with 431."""
    body_seconds: float = 300.0
    """Seconds that a connection may take to send a body before it is closed."""
    write_seconds: float = 60.0
    """Seconds without reading after which a client is disconnected."""
    ping_seconds: float = 10.0
    """Interval of comments while a tool runs, so that silence indicates a broken connection."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) <= 0:
                raise ValueError(f"{each.name} must be positive, got {getattr(self, each.name)!r}")
