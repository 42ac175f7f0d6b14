"""The order of the tool calls of one session.

Calls of one tool run one at a time, in order; different tools run concurrently. Calls of a ``concurrent`` tool run at
once. An ``exclusive`` tool waits for all running calls, concurrent ones included, and delays later ones.
"""

from __future__ import annotations

import asyncio
from collections import deque

from ors_gym_server.authoring.tools import CallOrder

__all__ = ["CallScheduler"]


class CallScheduler:
    """The turns of one session; each acquired turn is released."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._active = 0
        self._alone = False
        self._waiting: deque[tuple[str, CallOrder, asyncio.Future[None]]] = deque()
        self._exclusives_waiting = 0

    async def take(self, name: str, turn: CallOrder) -> None:
        """Wait until a call of ``name`` may run."""
        if self._may_start(name, turn):
            self._start(name, turn)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (name, turn, waiter)
        self._waiting.append(entry)
        self._exclusives_waiting += turn is CallOrder.EXCLUSIVE
        try:
            await waiter
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._forget(entry)
                self._advance()
            else:
                self.give_back(name, turn)
            raise

    def give_back(self, name: str, turn: CallOrder) -> None:
        """Release the turn of ``name``."""
        self._active -= 1
        if turn is CallOrder.SERIAL:
            self._running.discard(name)
        elif turn is CallOrder.EXCLUSIVE:
            self._alone = False
        if self._waiting:
            self._advance()

    def _may_start(self, name: str, turn: CallOrder) -> bool:
        if turn is CallOrder.EXCLUSIVE:
            return self._active == 0
        if self._alone or self._exclusives_waiting:
            return False
        return turn is CallOrder.CONCURRENT or name not in self._running

    def _start(self, name: str, turn: CallOrder) -> None:
        self._active += 1
        if turn is CallOrder.SERIAL:
            self._running.add(name)
        elif turn is CallOrder.EXCLUSIVE:
            self._alone = True

    def _forget(self, entry: tuple[str, CallOrder, asyncio.Future[None]]) -> None:
        self._waiting.remove(entry)
        self._exclusives_waiting -= entry[1] is CallOrder.EXCLUSIVE

    def _advance(self) -> None:
        for entry in list(self._waiting):
            name, turn, waiter = entry
            if self._exclusives_waiting and turn is not CallOrder.EXCLUSIVE:
                continue
            if self._may_start(name, turn):
                self._forget(entry)
                self._start(name, turn)
                if not waiter.done():
                    waiter.set_result(None)
