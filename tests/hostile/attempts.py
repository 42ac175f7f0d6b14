"""Attempts on the project's doors, and what came of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["ATTEMPT_SECONDS", "Attempt", "Outcome", "made"]

ATTEMPT_SECONDS = 120.0
"""What has not ended by then has broken the door: nothing waits for ever."""

Attempt: TypeAlias = Callable[[], Awaitable[str]]
"""Makes the attempt; what broke, in words, or nothing."""


@dataclass
class Outcome:
    """How often a door was tried, and what broke it."""

    attempts: int = 0
    broke: list[str] = field(default_factory=list)

    @property
    def held(self) -> int:
        """Attempts that came to nothing."""
        return self.attempts - len(self.broke)

    def add(self, name: str, broke: str) -> None:
        """Count one attempt."""
        self.attempts += 1
        if broke:
            self.broke.append(f"{name}: {broke}")


async def made(attempts: Iterable[tuple[str, Attempt]]) -> Outcome:
    """Make the attempts, one after the other."""
    outcome = Outcome()
    for name, attempt in attempts:
        try:
            broke = await asyncio.wait_for(attempt(), ATTEMPT_SECONDS)
        except TimeoutError:
            broke = f"no end within {ATTEMPT_SECONDS:g} s"
        except Exception as error:  # what this campaign looks for
            broke = f"{type(error).__name__}: {str(error)[:300]}"
        outcome.add(name, broke)
    return outcome
