"""Sandboxes of each method, where this machine has it.

A test names the properties that it needs. It is skipped where the method does not hold them on this machine, as
:meth:`LocalSandbox.isolation` reports; that the report is true is what the test then shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ors_gym_server.sandbox import (
    IsolationError,
    LocalSandbox,
    SandboxLimits,
)

__all__ = ["LIMITS", "METHODS", "run", "sandbox_by"]

METHODS = ("bubblewrap", "sandlock", "plain")
LIMITS = SandboxLimits(
    wall_seconds=8.0,
    cpu_seconds=1,
    memory_bytes=128 * 2**20,
    processes=24,
    output_bytes=10_000,
    file_bytes=2**20,
    disk_bytes=4 * 2**20,
)


def run(conversation: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(conversation, 60))


@asynccontextmanager
async def sandbox_by(
    method: str, *needed: str, limits: SandboxLimits = LIMITS, mounts: dict[str, Path] | None = None
) -> AsyncIterator[LocalSandbox]:
    """A sandbox by this method; skips the test where the method, or a property needed, is not to be had here."""
    sandbox = LocalSandbox(limits, method=method, require=(), mounts=mounts)  # type: ignore[arg-type]
    try:
        await sandbox.start()
    except IsolationError as error:
        pytest.skip(f"no isolation by {method} on this machine: {error}")
    try:
        for name in needed:
            if not sandbox.isolation().holds(name):  # type: ignore[arg-type]
                pytest.skip(f"{method} does not hold {name!r} on this machine, and says so")
        yield sandbox
    finally:
        await sandbox.close()
