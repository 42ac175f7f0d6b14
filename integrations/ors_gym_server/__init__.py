"""Gymnasium and OpenEnv environments served as ORS environments, and the server that hosts them."""
