"""A new environment's folder, and the command that tries it."""

from ors_gym_server.scaffold.folder import ARCHETYPES, ScaffoldError, scaffold
from ors_gym_server.scaffold.smoke_test import Gate, check_gates

__all__ = ["ARCHETYPES", "Gate", "ScaffoldError", "check_gates", "scaffold"]
