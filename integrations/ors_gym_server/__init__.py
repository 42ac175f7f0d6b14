"""Gymnasium and OpenEnv environments served as ORS environments, and the server that hosts them."""

from ors_gym_server.environment import Environment, terminal, tool

__all__ = ["Environment", "terminal", "tool"]
