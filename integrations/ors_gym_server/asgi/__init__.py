"""The ASGI application and its endpoints."""
