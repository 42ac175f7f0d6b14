"""What all tests share: fixtures, a marker for each folder, and independence from the machine and the terminal.

Nothing here imports more than the core and the test tools, so that ``-m unit`` runs where only the core is installed.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from packaging.requirements import Requirement

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

    from tests.support.ors_servers import RunningServer

os.environ.setdefault("OPENREWARD_LOG_LEVEL", "CRITICAL")  # read when the SDK is first imported
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # read when trl.experimental is first imported

# No property test depends on how fast the machine is.
settings.register_profile("ors-gym", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ors-gym")

# A shell ignores SIGINT for what it starts in the background, and children inherit that. Here Ctrl-C always works.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What is imported while tests are collected stays: the garbage collector, which each training runs several times, need
# not look at it. It takes a second for each run otherwise.
gc.disable()

TESTS = Path(__file__).parent
LONGEST_FIRST = (
    "nightly",
    "network",
    "cgroups",
    "inspect",
    "ray",
    "scaffold",
    "trl",
    "docs",
    "faults",
    "server",
    "sandbox",
    "reference",
    "unit",
)


OPTIONAL = ("gymnasium>=1.2", "gymnasium>=1.4", "box2d", "mujoco", "mypy", "ruff", "import-linter")
"""What tests may need beyond the extra `test`: packages of the extra `dev`, and what the lowest versions lack."""


def is_installed(requirement: str) -> bool:
    """Whether the package is here in that version."""
    wanted = Requirement(requirement)
    try:
        return wanted.specifier.contains(importlib.metadata.version(wanted.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def pytest_report_header() -> str:
    """Name the packages whose tests are deselected."""
    missing = [name for name in OPTIONAL if not is_installed(name)]
    return f"deselected, for what they need is not installed: tests of {', '.join(missing)}" if missing else ""


def needs_what_is_missing(item: pytest.Item) -> bool:
    """Whether a test is marked with a package that is not installed."""
    needed = [name for mark in item.iter_markers("needs") for name in mark.args]
    assert set(needed) <= set(OPTIONAL) or item.path.parent.name == "nightly", item.nodeid  # its summary names them
    return not all(map(is_installed, needed))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark every test with its folder's name, and put the folders that take longest first."""
    if missing := [item for item in items if needs_what_is_missing(item)]:
        config.hook.pytest_deselected(items=missing)
        items[:] = [item for item in items if item not in missing]

    def folder_of(item: pytest.Item) -> str:
        return item.path.relative_to(TESTS).parts[0]

    for item in items:
        folder = folder_of(item)
        item.add_marker(getattr(pytest.mark, folder))
    items.sort(key=lambda item: LONGEST_FIRST.index(folder_of(item)))


def pytest_collection_finish() -> None:
    """Collect garbage from here on, and only what the tests make."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run the tests of a file in one process, because they share its fixtures, and all that share the Ray cluster.

    xdist's own ``loadgroup`` does not work with pytest 9.2, which ignores the node ids that it changes.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "tests/ray" if file.startswith("tests/ray/") else file

    return ByFile(config, log)


@pytest.fixture
def start_server() -> Iterator[Callable[..., RunningServer]]:
    """Start reference servers of the test's own: ``start_server(MyEnvironment, …)``."""
    from tests.support.ors_servers import serve  # the reference SDK takes seconds to import

    with ExitStack() as stack:
        yield lambda *environments, **config: stack.enter_context(serve(*environments, **config))


@pytest.fixture(scope="session")
def counter_server() -> Iterator[RunningServer]:
    """One reference server with :class:`~tests.support.environments.Counter` for the whole run.

    Tests leave no session on it.
    """
    from tests.support.environments import Counter
    from tests.support.ors_servers import serve

    with serve(Counter) as running:
        yield running


@pytest.fixture(autouse=True)
def sessions_end_with_their_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Forget the sessions that a failing test left on the shared server: no other test finds them."""
    yield
    if "counter_server" in request.fixturenames:
        server = request.getfixturevalue("counter_server")
        for sid in list(server.live_sessions):
            server.forget(sid)


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine on a fresh event loop, so that plain test functions can hold conversations."""

    def run(conversation: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(conversation)

    return run


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
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
