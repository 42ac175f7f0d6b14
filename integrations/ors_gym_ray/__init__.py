"""ORS on Ray: episodes on actors, on many processes and machines, and servers on Ray Serve."""

from typing import TYPE_CHECKING, Any

from ors_gym.extras import packages_of

with packages_of("ray"):
    from ors_gym_ray.rollouts.pool import RolloutPool

if TYPE_CHECKING:
    from ors_gym_ray.serve.app import serve_app

__all__ = ["RolloutPool", "serve_app"]


def __getattr__(name: str) -> Any:
    """``serve_app`` needs ``ray[serve]``, and a second to import it: it is imported on first use."""
    if name == "serve_app":
        with packages_of("serve"):
            from ors_gym_ray.serve.app import serve_app

        return serve_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
