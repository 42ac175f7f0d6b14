"""A connection to the tests' Ray cluster, and pools on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from ray.cluster_utils import Cluster

from ors_gym_ray import RolloutPool
from tests.support.ors_servers import RunningServer
from tests.support.ray_clusters import connected


@pytest.fixture(scope="module")
def driver(ray_cluster: Cluster) -> Iterator[None]:
    """This process is a driver of the cluster."""
    with connected(ray_cluster):
        yield


@pytest.fixture(scope="module", name="pool")
def shared_pool(driver: None, counter_server: RunningServer) -> Iterator[RolloutPool]:
    """A pool for the tests that ask nothing special of it: actors take two seconds to start."""
    with RolloutPool(counter_server.url, env_name="counter", num_actors=2) as pool:
        yield pool


@pytest.fixture
def start_pool(counter_server: RunningServer) -> Iterator[Callable[..., RolloutPool]]:
    pools: list[RolloutPool] = []

    def start(**options: object) -> RolloutPool:
        pools.append(RolloutPool(counter_server.url, **{"env_name": "counter", "num_actors": 2, **options}))
        return pools[-1]

    yield start
    for pool in pools:
        pool.close()
