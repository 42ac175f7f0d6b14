"""ORS episodes on Ray actors: many concurrent sessions on many processes and machines."""

from ors_gym_ray.pool import RolloutPool

__all__ = ["RolloutPool"]
