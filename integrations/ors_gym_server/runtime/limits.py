"""What a server allows."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server allows. Durations are in seconds, sizes in bytes."""

    max_sessions: int = 1024
    """Sessions at once; one more is refused with 429."""
    max_calls_per_session: int = 64
    """Calls of one session under way at once; one more is refused with 429."""
    session_timeout_seconds: float = 900.0
    """A session that is idle for so long, without a request or a running call, is closed."""
    tool_timeout_seconds: float = 3600.0
    """A tool that takes longer fails, and its session with it: its state is unknown."""
    setup_wait_seconds: float = 25.0
    """A request waits so long for a session's setup before it is answered 503, to be sent again."""
    teardown_seconds: float = 10.0
    """A teardown gets so long, and what runs in a session that is closed so long before it."""
    max_request_bytes: int = 16 * 2**20
    """A larger request is refused with 413."""
    max_kept_bytes: int = 128 * 2**20
    """Results of ended calls kept over all sessions, for clients that lost them."""
    max_kept_seconds: float = 60.0
    """How long such a result is kept."""
    max_remembered_calls: int = 10_000
    """Ended calls of a session that are known after that, so that they do not run again when a client repeats them."""
    header_seconds: float = 30.0
    """A connection gets so long to send the header section of a request; then it is closed."""
    max_header_bytes: int = 64 * 2**10
    """A longer header section is refused with 431."""
    body_seconds: float = 300.0
    """A connection gets so long to send the body of a request; then it is closed."""
    write_seconds: float = 60.0
    """A client that reads nothing of its answer for so long is disconnected."""
    ping_seconds: float = 10.0
    """Interval of comments while a tool runs, so that silence means a broken connection."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) <= 0:
                raise ValueError(f"{each.name} must be positive, got {getattr(self, each.name)!r}")
