"""ORS episodes on Ray actors: many concurrent sessions on many processes and machines.

ORS servers on Ray Serve are in :mod:`ors_gym_ray.serving`, which needs ``ray[serve]``.
"""

from ors_gym_ray.pool import RolloutPool

__all__ = ["RolloutPool"]
