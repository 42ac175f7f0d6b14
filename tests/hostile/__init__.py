"""What a model, a server, a client, an endpoint or a program in a sandbox may send, and whether each door holds."""
