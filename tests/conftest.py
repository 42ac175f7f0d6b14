"""Fixtures shared by all tests."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OPENREWARD_LOG_LEVEL", "CRITICAL")  # read when the SDK is first imported
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # read when trl.experimental is first imported

from tests.support.environments import Counter
from tests.support.ors_servers import RunningServer, serve
from tests.support.paths import ROOT


@pytest.fixture
def start_server() -> Iterator[Callable[..., RunningServer]]:
    """Start reference servers of the test's own: ``start_server(MyEnvironment, …)``."""
    with ExitStack() as stack:
        yield lambda *environments, **config: stack.enter_context(serve(*environments, **config))


@pytest.fixture(scope="session")
def counter_server() -> Iterator[RunningServer]:
    """One reference server with :class:`~tests.support.environments.Counter` for the whole run.

    Tests leave no session on it.
    """
    with serve(Counter) as running:
        yield running


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine on a fresh event loop, so that plain test functions can hold conversations."""

    def run(conversation: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(conversation)

    return run


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """One Ray cluster for the whole run: a head on which no actor fits and a node for two. It is in nobody's way."""
    from tests.support.ray_clusters import start_cluster  # Ray takes a second to import

    with start_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def ors_gym_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project as a package, as an index would hold it."""
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No matching distribution found for hatchling" in built.stderr:
        pytest.skip("pip finds no hatchling: no package index is reached from here")
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))
