"""The Ray cluster: joining it, where actors go, and what it lacks when they do not come to life."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import client

__all__ = ["LeftClusterError", "connection", "join_ray", "spread_by_default", "wanted_and_free"]


class LeftClusterError(RayError):
    """This process left the cluster of a pool's actors, which ends them."""

    def __str__(self) -> str:
        return "ray.shutdown() ended the actors of the RolloutPool"


def join_ray(address: str | None) -> bool:
    """Connect this process to Ray where it is not; whether that was needed.

    Raises:
        ValueError: it is connected already, to another cluster than the one at ``address``.
    """
    if not ray.is_initialized():
        ray.init(address=address, include_dashboard=False, logging_level=logging.ERROR)
        return True
    here = ray.get_runtime_context().gcs_address
    _, colon, port = (address or "").rpartition(":")
    if address and colon and "//" not in address and not here.endswith(colon + port):  # a host has many names
        raise ValueError(f"this process is connected to the Ray cluster at {here}, not to the one at {address}")
    return False


def connection() -> str | None:
    """Tells this process's connection to Ray from an earlier or later one; None without one.

    After ``ray.shutdown()`` no call may be made on an old actor: none is answered, and Ray starts a cluster for it.
    """
    if not ray.is_initialized():
        return None
    if client.ray.is_connected():  # type: ignore[no-untyped-call]
        return "client"
    return ray.get_runtime_context().get_worker_id()


def spread_by_default(actor_options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of actors that cost little themselves and, unless placed otherwise, go to different nodes."""
    options: dict[str, Any] = {"num_cpus": 0.25, "max_concurrency": 1000, **actor_options}
    if not options.get("scheduling_strategy") and not options.get("placement_group"):
        options["scheduling_strategy"] = "SPREAD"
    return options


def wanted_and_free(actor_options: Mapping[str, Any]) -> str:
    """The resources that each actor requests and the cluster has."""
    wanted = {
        name: actor_options[name] for name in ("num_cpus", "num_gpus", "memory", "resources") if actor_options.get(name)
    }
    there = _by_name(ray.cluster_resources())  # type: ignore[no-untyped-call]
    free = _by_name(ray.available_resources())  # type: ignore[no-untyped-call]
    said = f"{wanted} each; the cluster has {there}, of which {free} is free"
    if wanted.get("num_cpus", 0) > free.get("CPU", 0):
        said += '. With actor_options={"num_cpus": 0} actors need no CPU that the ranks of a trainer may have taken'
    return said


def _by_name(resources: Mapping[str, float]) -> dict[str, float]:
    """The resources that actors ask for by name: neither Ray's own per node nor shares of placement groups."""
    own = ("node:", "object_store_memory", "bundle_group_", "accelerator_type:")
    return {
        name: round(amount, 4)
        for name, amount in sorted(resources.items())
        if not name.startswith(own) and "_group_" not in name
    }
