"""A real Ray cluster of several nodes on this machine, apart from any other Ray that runs here."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import ray
from ray.cluster_utils import Cluster

__all__ = ["add_node", "connected", "kill_process", "start_cluster"]

T = TypeVar("T")

SMALL: dict[str, Any] = {"object_store_memory": 80 * 2**20, "include_dashboard": False}

IMPATIENT = {
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 8,
    "metrics_report_interval_ms": 500,
}
"""Dead nodes are noticed sooner than after 15 s, and not so soon that a busy machine seems dead; metrics are fresh."""


@contextlib.contextmanager
def start_cluster(num_cpus: int = 2) -> Iterator[Cluster]:
    """A head on which no actor fits, and one node for two actors that ask for a ``place``."""
    directory = tempfile.mkdtemp(prefix="ors-ray-", dir="/tmp")  # a short path: sockets live in it
    with _temporary_files_in(directory):
        # Any port: to find the default one taken, by a Ray beside the tests, Ray leaves a socket open.
        head = {"num_cpus": 0, "dashboard_port": None, "_system_config": IMPATIENT, **SMALL}
        cluster = _started(lambda: Cluster(initialize_head=True, head_node_args=head))
    try:
        add_node(cluster, num_cpus=num_cpus)
        yield cluster
    finally:
        cluster.shutdown()
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _temporary_files_in(directory: str) -> Iterator[None]:
    """Keep the cluster's address out of the file in which every ``ray.init()`` on this machine looks for one."""
    before = os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = directory
    try:
        yield
    finally:
        if before is None:
            del os.environ["RAY_TMPDIR"]
        else:
            os.environ["RAY_TMPDIR"] = before


def add_node(cluster: Cluster, places: int = 2, num_cpus: int = 2) -> Any:
    """Another node, with room for this number of actors that ask for a ``place``."""
    return _started(lambda: cluster.add_node(num_cpus=num_cpus, resources={"place": places}, **SMALL))


def _started(start: Callable[[], T]) -> T:
    """Start a node again where it takes longer than the 30 s that Ray allows it, as on a busy machine."""
    for _ in range(3):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return start()


def kill_process(worker: Any) -> None:
    """Kill the process of a pool's actor, which may be dead already without the pool's having heard of it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker.home.pid, signal.SIGKILL)


@contextlib.contextmanager
def connected(cluster: Cluster) -> Iterator[None]:
    """This process as a driver of the cluster."""
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)
    try:
        yield
    finally:
        ray.shutdown()
