"""HTTP underneath the client: transports, server-sent events, retries, and a sticky proxy."""

from ors_gym.http.asgi import ASGITransport

__all__ = ["ASGITransport"]
