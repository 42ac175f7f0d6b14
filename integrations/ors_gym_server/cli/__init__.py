"""The server's commands: serve, new, gates."""
