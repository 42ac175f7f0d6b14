"""What the environments of tests/support/server_environments.py remember is of one test."""

from __future__ import annotations

import pytest


@pytest.fixture
def forget() -> None:
    """Forget what Forge and Ledger remember of earlier tests."""
    from tests.support.environments import Ledger
    from tests.support.server_environments import Forge

    Forge.forget()
    Ledger.open_gate = None
