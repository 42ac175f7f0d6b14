"""Gymnasium and OpenEnv environments served as ORS environments, and the server that hosts them."""

from ors_gym_server.app import create_app
from ors_gym_server.environment import Environment, terminal, tool
from ors_gym_server.limits import Limits
from ors_gym_server.openreward import as_openreward
from ors_gym_server.serve import serve

__all__ = ["Environment", "Limits", "as_openreward", "create_app", "serve", "terminal", "tool"]
