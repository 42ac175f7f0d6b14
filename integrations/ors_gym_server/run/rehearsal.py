"""Environments tried before they are served: whether they start, draw, and give one episode for one task.

They are tried where a crash does no harm, in two processes that are started anew: what is drawn without a display may
abort a process, and two processes show what depends on one. In the second one the global random generators are in
another state at each request, as they are beside other sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import cloudpickle

from ors_gym.client.client import ORSClient
from ors_gym.testing.tasks import Finding, TaskReport, probe_tasks
from ors_gym_server.authoring.environment import Environment

__all__ = ["RehearsalError", "lines_about", "rehearse"]

T = TypeVar("T")

LOOK_SECONDS = 0.1
"""Seconds between checks that the processes are alive."""

SECONDS = 20.0
"""The time for one environment; what is not known by then is left out."""

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.stdin.buffer.readline()); "
    "from ors_gym_server.run.stage import live; live()"
)
_NO_DISPLAY = re.compile(
    r"OpenGL|\bE?GLX?\b|glfw|osmesa|X11|\bDISPLAY\b|video ?device|video driver|no such display|pyglet", re.IGNORECASE
)
_DISPLAYS = "without a display set MUJOCO_GL=egl for MuJoCo, or SDL_VIDEODRIVER=dummy for pygame"


class RehearsalError(Exception):
    """An environment cannot be served: it ends its process, or cannot draw here."""


def rehearse(environments: Sequence[type], *, seconds: float = SECONDS) -> list[TaskReport]:
    """Try the first tasks of each environment's first split.

    Raises:
        RehearsalError: an environment ends its process, or finds nothing to draw with.
    """
    try:
        pickled = cloudpickle.dumps(list(environments))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        reason = Finding("starts", None, f"not tried, since it cannot be sent to another process ({error})")
        return [TaskReport(each.__name__.lower(), "", (reason,)) for each in environments]
    with contextlib.ExitStack() as stack:
        key = secrets.token_hex(16)
        stages = [stack.enter_context(_Stage(pickled, key, reseeds=reseeds)) for reseeds in (False, True)]
        work = _try_all(environments, stages[0].url, stages[1].url, key, seconds)
        try:
            reports = asyncio.run(_while_they_live(stages, work))
        finally:
            for each in stages:  # both at once, before either is waited for
                each.end()
    for report in reports:
        failure = next((each.message for each in report.findings if each.name == "starts"), "")
        if _NO_DISPLAY.search(failure):
            raise RehearsalError(f"{report.env_name} cannot draw here: {failure}; {_DISPLAYS}")
    return reports


async def _try_all(environments: Sequence[Any], url: str, reseeding: str, key: str, seconds: float) -> list[TaskReport]:
    reports: list[TaskReport] = []
    async with ORSClient(url, api_key=key) as client, ORSClient(reseeding, api_key=key) as elsewhere:
        for each in environments:
            name = each.name().lower()
            report = await probe_tasks(
                client,
                name,
                (await client.list_splits(name))[0].name,
                elsewhere=elsewhere,
                reseeds=True,
                at_once=not (issubclass(each, Environment) and each.max_sessions == 1),
                seconds=seconds,
            )
            reports.append(report)
    return reports


async def _while_they_live(stages: Sequence[_Stage], work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, or why a process ended before completing it."""
    task = asyncio.create_task(work)
    while not task.done():
        await asyncio.wait([task], timeout=LOOK_SECONDS)
        ended = next((each for each in stages if each.has_ended), None)
        if ended is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise ended.error()
    return await task


class _Stage:
    """A server in a separate process."""

    def __init__(self, environments: bytes, key: str, *, reseeds: bool) -> None:
        self._output = tempfile.TemporaryFile("w+b")  # noqa: SIM115  (closed with the stage)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            env=os.environ | {"PYTHONHASHSEED": str(1 + reseeds)},  # sets in another order
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: what it said is shown
            self._process.stdin.write(json.dumps([path or os.getcwd() for path in sys.path]).encode() + b"\n")
            self._process.stdin.write(pickle.dumps((key, reseeds)) + environments)
            self._process.stdin.flush()

    def __enter__(self) -> _Stage:
        return self

    @property
    def url(self) -> str:
        """Where it answers, when it does."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(b"http://"):
                return line.decode().strip()
        self._process.wait()
        raise self.error()

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone, which it is not to be."""
        return self._process.poll() is not None

    def error(self) -> RehearsalError:
        """Why the process has ended."""
        status = self._process.wait()
        how = signal.strsignal(-status) if status < 0 else f"exit status {status}"
        is_drawing = bool(_NO_DISPLAY.search(self._said)) or status in (-signal.SIGABRT, -signal.SIGSEGV)
        return RehearsalError(
            f"an environment ends its process ({how}): {self._said}{f'; {_DISPLAYS}' if is_drawing else ''}"
        )

    @property
    def _said(self) -> str:
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        return " ".join(lines[-3:]) or "it printed nothing"

    def end(self) -> None:
        """Let it end, by the end of its input."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def __exit__(self, *exc_info: object) -> None:
        self.end()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._output.close()


def lines_about(report: TaskReport, cured: Sequence[str] = ()) -> Iterator[str]:
    """The text for the user: empty if there is no fault, or if the way of serving avoids it."""
    for finding in report.findings:
        if finding.name not in cured and (finding.holds is False or finding.name in ("starts", "time")):
            yield f"{report.env_name}: {finding}"
