"""Servers that answer as models do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.chat_server import ChatServer, serve_chat
from tests.support.providers.base import Stage, serve_stage


@pytest.fixture
def chat() -> Iterator[ChatServer]:
    with serve_chat() as server:
        yield server


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with serve_stage() as stage:
        yield stage
