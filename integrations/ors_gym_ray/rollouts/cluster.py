"""The Ray cluster: joining it, where actors go, and what it lacks when they do not come to life."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import ray

__all__ = ["join_ray", "spread_by_default", "wanted_and_free"]


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


def spread_by_default(actor_options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of actors that cost little themselves and, unless placed otherwise, go to different nodes."""
    options: dict[str, Any] = {"num_cpus": 0.25, "max_concurrency": 1000, **actor_options}
    if not options.get("scheduling_strategy") and not options.get("placement_group"):
        options["scheduling_strategy"] = "SPREAD"
    return options


def wanted_and_free(actor_options: Mapping[str, Any]) -> str:
    """What each actor wants and what the cluster has."""
    wanted = {
        name: actor_options[name] for name in ("num_cpus", "num_gpus", "memory", "resources") if actor_options.get(name)
    }
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return f"{wanted} each; the cluster has {there}, of which {free} is free"
