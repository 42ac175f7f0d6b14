"""Environments of Gymnasium, OpenEnv, PettingZoo and data sets as ORS environments, and the server that hosts them."""

from typing import TYPE_CHECKING, Any

from ors_gym.extras import packages_of

with packages_of("server"):
    from ors_gym_server.adapters.gymnasium import as_ors_environment
    from ors_gym_server.adapters.openreward import as_openreward
    from ors_gym_server.adapters.pettingzoo import from_pettingzoo
    from ors_gym_server.adapters.questions import from_questions
    from ors_gym_server.asgi.app import create_app
    from ors_gym_server.authoring.environment import Environment, terminal, tool
    from ors_gym_server.run.program import main
    from ors_gym_server.run.serve import serve
    from ors_gym_server.runtime.limits import Limits

if TYPE_CHECKING:
    from ors_gym_server.adapters.openenv import from_openenv

__all__ = [
    "Environment",
    "Limits",
    "as_openreward",
    "as_ors_environment",
    "create_app",
    "from_openenv",
    "from_pettingzoo",
    "from_questions",
    "main",
    "serve",
    "terminal",
    "tool",
]


def __getattr__(name: str) -> Any:
    """``from_openenv`` needs the package openenv, and seconds to import it: it is imported on first use."""
    if name == "from_openenv":
        with packages_of("openenv"):
            from ors_gym_server.adapters.openenv import from_openenv

        return from_openenv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
