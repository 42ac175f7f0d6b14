"""Sessions, calls and environment instances of a running server."""
