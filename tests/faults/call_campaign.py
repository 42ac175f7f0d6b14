"""Thousands of calls through every fault at once: how often each ran, how each ended, what was left behind.

``python -m tests.faults calls`` prints the tables, of three servers.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ors_gym.client.client import ORSClient, Session, SessionState, Timeouts
from ors_gym.errors import ORSError, SessionError
from ors_gym_server import create_app
from ors_gym_server.asgi.app import ORSApp
from tests.support.environments import Ledger
from tests.support.faulty_proxy import Fault, FaultyProxy, ProxiedRequest, http_answer
from tests.support.named_tasks import NamedTasks
from tests.support.ors_servers import RunningServer, Server, free_port, serve_app

TIMEOUTS = Timeouts(first_event_seconds=2.0, silence_seconds=0.5, resume_seconds=10.0, close_seconds=10.0)
STARTING = http_answer("503 Service Unavailable", b"", X_Backend_State="starting", Retry_After="0")

FAULTS: dict[str, Callable[[random.Random], list[Fault]]] = {
    "none": lambda rng: [],
    "cut after task_id": lambda rng: [Fault(cut_after=b"event: task_id")],
    "cut after task_id, 3 times": lambda rng: [Fault(cut_after=b"event: task_id", reset=True)] * 3,
    "cut at a random byte": lambda rng: [Fault(cut_at=rng.randrange(60, 12_000), reset=rng.random() < 0.5)],
    "silent after task_id": lambda rng: [Fault(stall_after=b"event: task_id")],
    "silent inside the result": lambda rng: [Fault(stall_after=b"event: chunk")],
    "503 starting, 429": lambda rng: [Fault(answer=STARTING), Fault(answer=http_answer("429 Full", Retry_After="0"))],
    "cut before the server": lambda rng: [Fault(refuse=True, reset=rng.random() < 0.5)],
    "answer lost": lambda rng: [Fault(drop_answer=True, reset=rng.random() < 0.5)],
    "cut before task_id": lambda rng: [Fault(cut_at=rng.randrange(1, 20))],
    "502 from a gateway": lambda rng: [Fault(answer=http_answer("502 Bad Gateway"))],
    "caller gives up": lambda rng: [],
    "server restarts": lambda rng: [],
}
CREATION_FAULTS = (Fault(drop_answer=True), Fault(refuse=True), Fault(answer=STARTING))


@dataclass
class Row:
    """What became of the calls with one fault."""

    calls: int = 0
    results: int = 0
    given_up: int = 0
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    keys: list[tuple[str, str]] = field(default_factory=list)
    """Each call's key and how it ended: ``result``, ``given up``, ``not run`` or ``may have run``."""
    wrong: list[str] = field(default_factory=list)

    @property
    def executions(self) -> int:
        """How often the tools of these calls ran."""
        return sum(Ledger.executions[key] for key, _ in self.keys)

    @property
    def ran_twice(self) -> int:
        """How many of these calls ran more than once."""
        return sum(Ledger.executions[key] > 1 for key, _ in self.keys)

    @property
    def misjudged(self) -> int:
        """How many ran although an error says that they did not, or gave a result without having run once."""
        allowed = {"result": {1}, "given up": {0, 1}, "not run": {0}, "may have run": {0, 1}}
        return sum(Ledger.executions[key] not in allowed[end] for key, end in self.keys)


@dataclass
class Campaign:
    """One run against the reference server.

    ``named``: with ``task_id``s that clients may choose; ``ours``: against our server instead, where they may.
    """

    calls: int
    seed: int = 0
    named: bool = False
    ours: bool = False
    restarts: int = 3
    workers: int = 24
    rows: dict[str, Row] = field(default_factory=lambda: {name: Row() for name in FAULTS})
    leaked: int = 0
    sessions: int = 0

    def run(self) -> Campaign:
        """Run it on its own event loop."""
        asyncio.run(self._run())
        return self

    async def _run(self) -> None:
        self._rng = random.Random(self.seed)
        self._faults: dict[str, list[Fault]] = {}
        self._left = self.calls
        self._restarting = False
        self._port = free_port()
        self._stack = contextlib.ExitStack()
        self._app: ORSApp | None = None
        try:
            self._server = await asyncio.to_thread(self._start)
            async with FaultyProxy(self._server.url, self._plan) as proxy:
                async with ORSClient(proxy.url, timeouts=TIMEOUTS) as client:
                    workers = [asyncio.create_task(self._work(client)) for _ in range(self.workers)]
                    for restart in range(1, self.restarts + 1):
                        while self._left > self.calls * (1 - restart / (self.restarts + 1)):
                            await asyncio.sleep(0.02)
                        await self._restart()
                    await asyncio.gather(*workers)
            self.leaked = len(self._server.live_sessions) if self._app is None else self._app.num_sessions
        finally:
            await asyncio.to_thread(self._stack.close)

    def _start(self) -> RunningServer:
        if self.ours:
            self._app = create_app([Ledger])
            return self._stack.enter_context(serve_app(self._app, port=self._port, timeout_graceful_shutdown=0))
        server = Server([Ledger])
        app: Any = NamedTasks(server.app) if self.named else server.app
        return self._stack.enter_context(serve_app(app, server=server, port=self._port, timeout_graceful_shutdown=0))

    async def _restart(self) -> None:
        self._restarting = True
        await asyncio.to_thread(self._stack.close)
        self._server = await asyncio.to_thread(self._start)
        self._restarting = False

    def _plan(self, request: ProxiedRequest) -> Fault | None:
        if request.path.endswith("/call"):
            faults = self._faults.get(json.loads(request.body)["input"]["key"])
            return faults.pop(0) if faults else None
        if request.path == "/create" and self.sessions and self._rng.random() < 0.1:
            return self._rng.choice(CREATION_FAULTS)
        return None

    async def _work(self, client: ORSClient) -> None:
        while self._left > 0:
            with contextlib.suppress(ORSError):  # a session that cannot be opened while the server is away
                async with client.session("ledger", task={}) as session:
                    self.sessions += 1
                    for _ in range(5):
                        if session.state is not SessionState.OPEN or self._left <= 0:
                            break
                        await self._call(session)

    async def _call(self, session: Session) -> None:
        self._left -= 1
        rng = self._rng
        fault = rng.choice([name for name in FAULTS if name != "server restarts"])
        key, text = uuid.uuid4().hex, "    x\u2028" * rng.choice([1, 10, 2000])
        self._faults[key] = FAULTS[fault](rng)
        seconds = rng.choice([0.0, 0.0, 0.02, 0.2])
        call = asyncio.create_task(session.call_tool("work", {"key": key, "text": text, "seconds": seconds}))
        if fault == "caller gives up":
            await asyncio.wait([call], timeout=rng.random() * 0.05)
            call.cancel()
        during_restart = self._restarting
        (outcome,) = await asyncio.gather(call, return_exceptions=True)
        if (during_restart or self._restarting) and isinstance(outcome, ORSError):
            fault = "server restarts"
        self._judge(self.rows[fault], session, key, text, outcome)

    def _judge(self, row: Row, session: Session, key: str, text: str, outcome: Any) -> None:
        row.calls += 1
        if isinstance(outcome, asyncio.CancelledError):
            row.given_up += 1
            row.keys.append((key, "given up"))
        elif isinstance(outcome, ORSError):
            row.errors[outcome.kind] += 1
            row.keys.append((key, "may have run" if outcome.may_have_run else "not run"))
            if outcome.session_id != session.id or outcome.tool != "work" or outcome.may_have_run is None:
                row.wrong.append(f"an error that does not say enough: {outcome}")
            if session.state is SessionState.OPEN and (outcome.may_have_run or isinstance(outcome, SessionError)):
                row.wrong.append(f"a session is used on after {outcome}")
        else:
            row.results += 1
            row.keys.append((key, "result"))
            if not outcome.ok or outcome.text != text:
                row.wrong.append(f"another result: {outcome!r}"[:300])

    def table(self) -> str:
        """The campaign as text."""
        lines = [f"{'fault':<28}{'calls':>6}{'ran':>6}{'twice':>6}{'results':>8}{'given up':>9}  errors"]
        for name, row in self.rows.items():
            errors = ", ".join(f"{kind} {count}" for kind, count in sorted(row.errors.items()))
            counts = f"{row.calls:>6}{row.executions:>6}{row.ran_twice:>6}{row.results:>8}{row.given_up:>9}"
            lines.append(f"{name:<28}{counts}  {errors}")
        lines.append(f"{self.sessions} sessions, {self.leaked} left on the server; {self.restarts} restarts")
        return "\n".join(lines)
