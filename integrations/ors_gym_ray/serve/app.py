"""ORS servers on Ray Serve: replicas follow the number of sessions, and no session is lost when one is stopped.

Three deployments make one Serve application:

- ``Replica``: the servers. Serve starts and stops them, by the number of sessions that live and wait. Each listens at
  its own address and tells it to the directory. One that Serve has chosen to stop takes no new session, serves
  those that it has as before, and stops when the last one has ended.
- ``Registry``: knows the replicas and their loads, and gives a new session a place on the least busy one. The
  session's id names the replica; it stays there.
- ``Ingress``: where Serve's proxies bring the requests. It passes each on to the replica that the session's id names.

Why not one deployment and a request router? Serve takes a replica from its routers the moment that it decides to stop
it. Requests under way are let end, but a session is many requests: the next one would reach another replica, which does
not know it. (The consistent-hash router moves sessions for the same reason, and when a replica is added, too.) So the
way from the door to a replica is not Serve's, and what Serve does best stays with it: placement, autoscaling, health,
restarts, and rolling updates, in which the sessions of the old version end on the old version. (Serve begins an update
when no replica is being drained because there were too many.)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy
from ray.serve.schema import LoggingConfig

from ors_gym.http.asgi import ASGIApp
from ors_gym_ray.serve.ingress import Ingress
from ors_gym_ray.serve.registry import Registry
from ors_gym_ray.serve.replica import Replica

__all__ = ["SessionPolicy", "serve_app"]

MANY = 100_000
"""Requests at once for a deployment whose requests mostly wait; Serve's own limit is 5."""

HEALTH_SECONDS = 2.0
"""How soon a process that has died is noticed, and another one started in its place."""

DRAIN_LOOP_SECONDS = 0.2
"""How soon a replica that is to stop hears of it."""


def serve_app(
    app_factory: Callable[[], ASGIApp],
    *,
    max_sessions_per_replica: int,
    target_sessions_per_replica: float | None = None,
    min_replicas: int = 1,
    max_replicas: int = 4,
    upscale_delay_seconds: float = 0.0,
    downscale_delay_seconds: float = 60.0,
    metrics_seconds: float = 1.0,
    drain_seconds: float = 3600.0,
    replica_options: Mapping[str, Any] | None = None,
    num_doors: int = 1,
    num_sessions: Callable[[Any], int] = attrgetter("num_sessions"),
    max_request_bytes: int = 16 * 2**20,
) -> serve.Application:
    """An ORS server as a Ray Serve application: ``serve.run(serve_app(…))``, or its import path in a config file.

    Args:
        app_factory: Makes the server, in each replica: for example ``lambda: create_app([MyEnvironment])``.
        max_sessions_per_replica: Maximum sessions of a replica; with ``max_replicas`` full, clients are
            answered 429. Give the server itself the same limit, or a higher one.
        target_sessions_per_replica: How many sessions a replica should have on average; more replicas are started
            above it, and replicas drained below. By default three quarters of the maximum.
        min_replicas: Minimum replicas, one or more.
        max_replicas: Maximum replicas; those that are being drained come on top.
        upscale_delay_seconds: How long more replicas must be wanted before they are started.
        downscale_delay_seconds: How long fewer must be wanted before some are drained.
        metrics_seconds: How often sessions are counted to decide it.
        drain_seconds: How long a replica may wait for its sessions to end, when Serve has decided to stop it. What is
            left then is lost. Longer than your longest episode.
        replica_options: Ray's options for a replica's process (``num_cpus``, ``resources``, ``runtime_env``, …).
        num_doors: Processes that pass requests on.
        num_sessions: Asks the server that ``app_factory`` made how many sessions it has; by default its attribute
            ``num_sessions``.
        max_request_bytes: A larger request is refused with 413.

    Serve's own proxies in Python take some 30 ms for a request and 200 requests a second (measured on two cores). With
    ``RAY_SERVE_ENABLE_HA_PROXY=1`` in the environment of every node they are replaced by HAProxy, which comes with
    ``ray[serve]``: 1 ms and 800 requests a second.

    Replicas listen at their node's address on a free port, so that the ingress reaches them: who is in the cluster's
    network can, too. Give the server an API key if that is not only you.
    """
    if max_sessions_per_replica < 1:
        raise ValueError("max_sessions_per_replica must be at least 1")
    if not 1 <= min_replicas <= max_replicas:
        raise ValueError("there must be at least one replica, and max_replicas no less than min_replicas")
    target = target_sessions_per_replica or 0.75 * max_sessions_per_replica
    if not 0 < target <= max_sessions_per_replica:
        raise ValueError("target_sessions_per_replica must be positive and at most max_sessions_per_replica")
    arguments: dict[str, Any] = {"policy_function": SessionPolicy, "policy_kwargs": {"target": target}}
    policy = AutoscalingPolicy(**arguments)  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        # Serve would have this one set for the whole cluster, in the environment of each of its processes.
        warnings.filterwarnings("ignore", "The `metrics_interval_s` field", DeprecationWarning)
        autoscaling = AutoscalingConfig(
            min_replicas=min_replicas,
            max_replicas=max_replicas,
            upscale_delay_s=upscale_delay_seconds,
            downscale_delay_s=downscale_delay_seconds,
            metrics_interval_s=metrics_seconds,
            look_back_period_s=3 * metrics_seconds,
            policy=policy,
        )
        replicas: Any = serve.deployment(
            Replica,
            name="Replica",
            autoscaling_config=autoscaling,
            ray_actor_options=dict(replica_options or {}),
            graceful_shutdown_timeout_s=drain_seconds,
            graceful_shutdown_wait_loop_s=DRAIN_LOOP_SECONDS,
            health_check_period_s=HEALTH_SECONDS,
        )
    light: dict[str, Any] = {
        "max_ongoing_requests": MANY,
        "health_check_period_s": HEALTH_SECONDS,
        "ray_actor_options": {"num_cpus": 0},
        "logging_config": LoggingConfig(enable_access_log=False),
    }
    # Serve's decorators return what they do not say they return.
    directory: Any = serve.deployment(Registry, name="Registry", num_replicas=1, **light)
    doors: Any = serve.deployment(serve.ingress()(Ingress), name="Ingress", num_replicas=num_doors, **light)
    directory = directory.bind(max_sessions_per_replica, max_replicas)
    application: serve.Application = doors.bind(
        directory, replicas.bind(directory, app_factory, num_sessions), max_request_bytes
    )
    return application


class SessionPolicy:
    """The autoscaling policy: as many replicas as keep ``target`` sessions each. Serve applies bounds and delays."""

    def __init__(self, target: float) -> None:
        self._target = target

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """How many replicas there should be."""
        counts = (context.raw_metrics or {}).get("sessions", {})
        # Replicas that are being drained are not among the running ones: they end with their sessions, come what may.
        latest = [series[-1].value for replica in context.running_replicas if (series := counts.get(replica))]
        wanted = max(1, math.ceil(sum(latest) / self._target))
        if len(latest) < len(context.running_replicas):  # one has not said yet how many it has: it may have many
            wanted = max(wanted, context.target_num_replicas)
        return wanted, {}
