"""The smoke test of an environment's folder, to run before training on it.

It checks that the environment is listed, has tools, that an episode ends, and that a task is the same episode each
time. The folder is tested as it is deployed: its ``server.py`` in its own process (two for the last check), and its
``rollout.py`` in another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from ors_gym.client.client import ORSClient
from ors_gym.errors import ORSError
from ors_gym.testing.tasks import TaskReport, probe_tasks
from ors_gym.types import ToolList

__all__ = ["Gate", "check_gates"]

NUM_LINES = 12
"""Number of output lines shown for a failed program: the end of a traceback."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One check and its result."""

    name: str
    passed: bool
    message: str


class _ServerError(Exception):
    """The server did not start."""


def check_gates(folder: Path, *, sdk: bool = False, seconds: float = 120.0, tasks: bool = True) -> Iterator[Gate]:
    """Serve the environment, run the checks in order until one fails, and stop the server.

    Args:
        folder: Contains ``server.py``, which accepts ``--host``, ``--port`` and ``--sdk``, and ``rollout.py``, which
            accepts the server's URL and exits with 0 if its episode ended.
        sdk: Whether to use the reference SDK's server.
        seconds: Time limit for the server's start and for the episode.
        tasks: Whether to run the last check; False for environments that differ each time by design.
    """
    try:
        with _served(folder, sdk, seconds) as url:
            yield Gate("server", True, f"running at {url}")
            yield from _listed(url)
            yield (played := _rollout(folder, url, seconds))
            if tasks and played.passed:
                with _served(folder, sdk, seconds) as elsewhere:
                    yield from _tasks(url, elsewhere)
    except _ServerError as error:
        yield Gate("server", False, str(error))


def _listed(url: str) -> Iterator[Gate]:
    try:
        found = asyncio.run(_look(url))
    except ORSError as error:
        yield Gate("environments", False, str(error))
        return
    yield Gate("environments", bool(found), ", ".join(found) or "/list_environments returned none")
    names = [tool for tools in found.values() for tool in tools.names]
    names += [f"{tools.terminal_tool.name} (terminal)" for tools in found.values() if tools.terminal_tool is not None]
    yield Gate("tools", bool(names), f"{len(names)}: {', '.join(names)}")


async def _look(url: str) -> dict[str, ToolList]:
    async with ORSClient(url, api_key=os.environ.get("ORS_API_KEY")) as client:
        return {name: await client.list_tools(name) for name in await client.list_environments()}


def _rollout(folder: Path, url: str, seconds: float) -> Gate:
    try:
        ended = subprocess.run(
            [sys.executable, "rollout.py", url],
            cwd=folder,
            timeout=seconds,
            text=True,
            capture_output=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Gate("rollout", False, f"it did not end within {seconds:g} seconds")
    lines = (ended.stdout + ended.stderr).strip().splitlines()
    return Gate(
        "rollout", ended.returncode == 0, "\n".join(lines[-1:] if ended.returncode == 0 else lines[-NUM_LINES:])
    )


def _tasks(url: str, elsewhere: str) -> Iterator[Gate]:
    try:
        reports = asyncio.run(_probe(url, elsewhere))
    except ORSError as error:
        yield Gate("tasks", False, str(error))
        return
    for report in reports:
        findings = report.faults or [each for each in report.findings if each.name in ("different", "starts", "time")]
        yield Gate("tasks", report.ok, f"{report.split}: {'; '.join(map(str, findings)) or 'the same when reopened'}")


async def _probe(url: str, elsewhere: str) -> list[TaskReport]:
    key = os.environ.get("ORS_API_KEY")
    async with ORSClient(url, api_key=key) as client, ORSClient(elsewhere, api_key=key) as other:
        return [
            await probe_tasks(client, name, (await client.list_splits(name))[0].name, elsewhere=other)
            for name in await client.list_environments()
        ]


@contextlib.contextmanager
def _served(folder: Path, sdk: bool, seconds: float) -> Iterator[str]:
    """The folder's server on a free port while the block runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "server.py", "--host", "127.0.0.1", "--port", str(port), *(["--sdk"] if sdk else [])]
    with tempfile.TemporaryFile("w+") as output:
        # A different set order for each server, as in processes without the variable.
        env = os.environ | {"PYTHONHASHSEED": str(port)}
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            problem = _wait(process, url, seconds)
            if problem:
                output.seek(0)
                raise _ServerError("\n".join([problem, *output.read().splitlines()[-NUM_LINES:]]))
            yield url
        finally:
            process.terminate()  # the server tears down its sessions
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, seconds: float) -> str:
    """Wait until the server responds; returns the problem if it does not."""
    deadline = time.monotonic() + seconds
    with httpx.Client(timeout=5.0, trust_env=False) as http:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                return f"server.py ended with exit status {process.returncode}"
            with contextlib.suppress(httpx.TransportError):
                if http.get(f"{url}/health").is_success:
                    return ""
            time.sleep(0.05)
    return f"server.py did not answer /health within {seconds:g} seconds"
