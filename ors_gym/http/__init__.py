"""HTTP underneath the client: transports, server-sent events, retries, and a sticky proxy."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ors_gym.http.asgi import ASGITransport

__all__ = ["ASGITransport"]


def __getattr__(name: str) -> Any:
    """Import ``ASGITransport`` on first use: servers also import this package, and start faster without httpx."""
    if name == "ASGITransport":
        from ors_gym.http.asgi import ASGITransport

        return ASGITransport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
