"""The server of those tests of the client that start none of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.environments import Counter, Ledger
from tests.support.ors_servers import RunningServer, serve


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serve(Counter, Ledger) as running:
        yield running
        assert running.live_sessions == {}
