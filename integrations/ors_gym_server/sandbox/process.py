"""Running one process of the host with bounded output and time, and killing its process group."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from ors_gym_server.sandbox.scripts import BEGUN

__all__ = ["Ended", "execute"]

FLOOD = 64
"""A process that writes more than this multiple of the kept output is ended: dropping output costs server time."""
DRAIN_SECONDS = 2.0
"""Time limit for pipes to close after the process and its leftovers ended, in seconds."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The outcome of a process; ``returncode`` is None if it was killed by the sandbox."""

    returncode: int | None
    stdout: bytes
    stderr: bytes
    timed_out: bool
    truncated: bool

    @property
    def begun(self) -> bool:
        """Whether the command itself ran, after all confinement was in place."""
        return BEGUN in self.stderr

    def of_command(self, keep_bytes: int) -> Ended:
        """The outcome without standard error from before the command, and with output limited to ``keep_bytes``."""
        stderr = self.stderr.partition(BEGUN)[2]
        too_long = self.truncated or max(len(self.stdout), len(stderr)) > keep_bytes
        return replace(self, stdout=self.stdout[:keep_bytes], stderr=stderr[:keep_bytes], truncated=too_long)


class Output(asyncio.SubprocessProtocol):
    """Keeps the beginning of each stream, and counts and drops the rest."""

    def __init__(self, keep_bytes: int) -> None:
        self.keep_bytes = keep_bytes
        self.kept = {1: bytearray(), 2: bytearray()}
        self.written = {1: 0, 2: 0}
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[bool] = loop.create_future()
        """Set when the process ended (True) or wrote too much (False)."""
        self.gone = asyncio.Event()
        """Set when the process ended."""
        self.drained: asyncio.Future[None] = loop.create_future()
        """Set when the process ended and its pipes closed."""

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        kept = self.kept[fd]
        kept += data[: max(0, self.keep_bytes - len(kept))]
        self.written[fd] += len(data)
        if self.written[fd] > FLOOD * self.keep_bytes and not self.exited.done():
            self.exited.set_result(False)

    def process_exited(self) -> None:
        self.gone.set()
        if not self.exited.done():
            self.exited.set_result(True)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.drained.done():
            self.drained.set_result(None)


async def execute(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: str = "/",
    stdin: bytes | None = None,
    timeout_seconds: float,
    keep_bytes: int,
    monitor: bool,
    ends_itself: bool,
    kill_leftovers: Callable[[], Awaitable[None]],
) -> Ended:
    """Run a program to its end, or for ``timeout_seconds``; its process group is always killed.

    A ``monitor`` is a program that ends with its only child, the first process of a PID namespace: that child is
    killed, and the monitor's end shows that the kernel has ended all others. A program that ``ends_itself`` receives
    SIGTERM, and its end shows that it has ended all others. ``kill_leftovers`` is called last, for processes that left
    the group. Raises :class:`OSError` if the program cannot be started.
    """
    loop = asyncio.get_running_loop()
    transport, output = await loop.subprocess_exec(
        lambda: Output(keep_bytes),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        env=dict(environment),
        cwd=directory,
        start_new_session=True,
    )
    group = transport.get_pid()
    timed_out = ended = False
    try:
        if stdin is not None:
            pipe = cast(asyncio.WriteTransport, transport.get_pipe_transport(0))  # uvloop's is not a subclass
            pipe.write(stdin)
            pipe.close()
        try:
            async with asyncio.timeout(timeout_seconds):
                ended = await asyncio.shield(output.exited)
        except TimeoutError:
            timed_out = True
    finally:
        if not ended and ((ends_itself and end(group)) or (monitor and kill_children(group))):
            with suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_SECONDS):
                    await output.gone.wait()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        await kill_leftovers()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await output.drained
        transport.close()
    return Ended(
        transport.get_returncode() if ended else None,
        bytes(output.kept[1]),
        bytes(output.kept[2]),
        timed_out,
        any(count > keep_bytes for count in output.written.values()),
    )


def end(process: int) -> bool:
    """Send SIGTERM to a process; returns whether it existed."""
    try:
        os.kill(process, signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def kill_children(process: int) -> bool:
    """Kill the children of a process; returns whether it had any."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has ended, or the kernel was built without CONFIG_PROC_CHILDREN
        return False
    for child in children:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(int(child), signal.SIGKILL)
    return bool(children)
