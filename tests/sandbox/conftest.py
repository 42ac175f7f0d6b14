"""The methods by which the local sandbox isolates."""

from __future__ import annotations

import pytest

from tests.support.sandboxes import METHODS


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[method for method in METHODS if method != "plain"])
def isolating_method(request: pytest.FixtureRequest) -> str:
    """A method that hides files and processes; ``plain`` does not, and says so."""
    return request.param
