"""ORS servers on Ray Serve: replicas follow the number of sessions, and no session is lost when one is stopped.

Three deployments make one Serve application:

- ``Replica``: the servers. Serve starts and stops them by the number of open and waiting sessions. Each listens on its
  own address and reports it to the registry. A replica that Serve stops takes no new sessions, keeps serving the ones
  it has, and exits when the last one has ended.
- ``Registry``: knows the replicas and their loads, and places a new session on the least loaded one. The session's id
  names the replica, for as long as the session lives.
- ``Ingress``: receives the requests from Serve's proxies and forwards each to the replica that the session's id names.

Why not one deployment and a request router? Serve removes a replica from its routers as soon as it decides to stop it.
Requests in flight finish, but a session is many requests: the next one would reach a replica that does not know the
session. (The consistent-hash router moves sessions for the same reason, and also when a replica is added.) So requests
from the ingress to a replica bypass Serve. Serve keeps what it does best: placement, autoscaling, health checks,
restarts, and rolling updates, in which sessions of the old version end on the old version. (Serve starts an update
only when no replica is being drained by a scale-down.)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy
from ray.serve.schema import LoggingConfig

from ors_gym.http.answers import ASGIApp
from ors_gym_ray.serve.ingress import Ingress
from ors_gym_ray.serve.registry import Registry
from ors_gym_ray.serve.replica import Replica

__all__ = ["SessionPolicy", "serve_app"]

MANY = 100_000
"""Concurrent requests of a deployment whose requests mostly wait; Serve's default is 5."""

HEALTH_SECONDS = 2.0
"""Interval of Serve's health checks: a dead process is replaced after about this time."""

DRAIN_LOOP_SECONDS = 0.2
"""Interval at which Serve checks whether a stopping replica has ended."""


def serve_app(
    app_factory: Callable[[], ASGIApp],
    *,
    max_sessions_per_replica: int,
    target_sessions_per_replica: float | None = None,
    min_replicas: int = 1,
    max_replicas: int = 4,
    downscale_delay_seconds: float = 60.0,
    metrics_seconds: float = 1.0,
    drain_seconds: float = 3600.0,
    replica_options: Mapping[str, Any] | None = None,
    max_request_bytes: int = 16 * 2**20,
) -> serve.Application:
    """An ORS server as a Ray Serve application: ``serve.run(serve_app(…))``, or its import path in a config file.

    Args:
        app_factory: Makes the server in each replica, for example ``lambda: create_app([MyEnvironment])``; its
            attribute ``num_sessions`` is the number of open sessions. Where it has ``http_protocol``, as ours has,
            the replica's connections have its deadlines.
        max_sessions_per_replica: Maximum sessions of a replica. When all of ``max_replicas`` are full, new sessions
            are refused with 429. Give the server itself the same limit, or a higher one.
        target_sessions_per_replica: Desired mean number of sessions per replica: replicas are started above it and
            drained below it. By default three quarters of the maximum.
        min_replicas: Minimum number of replicas, at least one.
        max_replicas: Maximum number of replicas, not counting those that are being drained.
        downscale_delay_seconds: How long the load must stay lower before replicas are drained.
        metrics_seconds: Interval at which sessions are counted for that decision.
        drain_seconds: How long a stopping replica waits for its sessions to end; sessions that are left then are lost.
            Choose more than your longest episode.
        replica_options: Ray's options for a replica's process (``num_cpus``, ``resources``, ``runtime_env``, …).
        max_request_bytes: A larger request is refused with 413.

    Serve's own proxies in Python take some 30 ms for a request and 200 requests a second (measured on two cores). With
    ``RAY_SERVE_ENABLE_HA_PROXY=1`` in the environment of every node they are replaced by HAProxy, which comes with
    ``ray[serve]``: 1 ms and 800 requests a second. The proxies in Python also read ``X-Session-ID``, and answer 500 to
    one that is not UTF-8 before the request gets here; ``RAY_SERVE_SESSION_ID_HEADER_KEY`` names another header.

    Replicas listen on a free port of their node's address, so that the ingress can reach them. Everything else in the
    cluster's network can reach them too: give the server an API key unless you are alone there.
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
            upscale_delay_s=0.0,
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
    # Serve's decorators declare other return types than they have.
    registries: Any = serve.deployment(Registry, name="Registry", num_replicas=1, **light)
    ingresses: Any = serve.deployment(serve.ingress()(Ingress), name="Ingress", num_replicas=1, **light)
    registry = registries.bind(max_sessions_per_replica, max_replicas)
    application: serve.Application = ingresses.bind(registry, replicas.bind(registry, app_factory), max_request_bytes)
    return application


class SessionPolicy:
    """The autoscaling policy: as many replicas as keep ``target`` sessions each. Serve applies bounds and delays."""

    def __init__(self, target: float) -> None:
        self._target = target

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The target number of replicas."""
        counts = (context.raw_metrics or {}).get("sessions", {})
        # Replicas that are being drained are not among the running ones: they end with their sessions in any case.
        latest = [series[-1].value for replica in context.running_replicas if (series := counts.get(replica))]
        wanted = max(1, math.ceil(sum(latest) / self._target))
        if len(latest) < len(context.running_replicas):  # one has not reported yet: it may have many
            wanted = max(wanted, context.target_num_replicas)
        return wanted, {}
