"""HTTP underneath the client: transports, server-sent events, retries, and a sticky proxy."""
