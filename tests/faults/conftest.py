"""The server of the fault tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.environments import Ledger
from tests.support.ors_servers import RunningServer, serve


@pytest.fixture(scope="module")
def ledger_server() -> Iterator[RunningServer]:
    with serve(Ledger) as running:
        yield running


@pytest.fixture
def ledger(ledger_server: RunningServer) -> Iterator[RunningServer]:
    """The server, on which a test must leave no session."""
    yield ledger_server
    assert ledger_server.live_sessions == {}
