"""What sandboxes at a service have in common: there is a shell far away, and a way to copy files.

The limits that a shell can hold to are set there, by one script that every image with a POSIX shell, coreutils (or
BusyBox) and ``mktemp`` runs: time, processor time, the size of files, and how much output comes back. What only the
service can hold to (memory, disk, network) each class asks of its service, and says which.
"""

from __future__ import annotations

import base64
import importlib
import math
import posixpath
import shlex
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Self
from uuid import uuid4

from ors_gym_server.sandbox.base import CommandResult, Sandbox, SandboxError, SandboxLimits, as_bytes, as_text

__all__ = ["RemoteSandbox", "installed"]

SCRIPT = r"""
seconds=$1 keep=$2 cpu=$3 blocks=$4 directory=$5 input=$6; shift 6
place=$(mktemp -d) || exit
begun=$(date +%s)
(
    if [ -n "$directory" ]; then cd -- "$directory" || { echo 125 > "$place/code"; exit; }; fi
    ulimit -t "$cpu"; ulimit -f "$blocks"
    exec timeout -s KILL "$seconds" /bin/sh -c '"$@"; echo $? > "$0"' "$place/code" "$@" \
        < "${input:-/dev/null}" > "$place/out" 2> "$place/err"
) 2> /dev/null
echo "took $(($(date +%s) - begun)) $(cat "$place/code" 2> /dev/null)"
for stream in out err; do
    echo "$stream $(head -c "$((keep + 1))" "$place/$stream" 2> /dev/null | base64 | tr -d '\n')"
done
rm -rf "$place" ${input:+"$input"}
"""
"""Runs a command within limits; prints how long it took and its exit code (none if it was killed), then its output and
its standard error in base64, a line each."""

GRACE_SECONDS = 30.0
"""How much longer than the command the service may take to answer."""


class RemoteSandbox(Sandbox):
    """A sandbox at a service. Of :class:`SandboxLimits`, all of them hold to ``wall_seconds`` (rounded up to whole
    seconds), ``cpu_seconds``, ``file_bytes`` and ``output_bytes``; what else, each class says.

    The service ends the sandbox after ``lifetime_seconds`` even where its owner is gone. What a command leaves
    running goes on until then, or until :meth:`close`.
    """

    def __init__(self, limits: SandboxLimits | None = None, *, lifetime_seconds: int = 3600) -> None:
        self.limits = limits or SandboxLimits()
        self.lifetime_seconds = lifetime_seconds
        self._directory: str | None = None

    @abstractmethod
    async def _create(self) -> None:
        """Make the sandbox at the service."""

    @abstractmethod
    async def _destroy(self) -> None:
        """End it. Called once, also after :meth:`_create` failed midway."""

    @abstractmethod
    async def _shell(self, arguments: Sequence[str], seconds: float) -> str:
        """The output of a program; raises :class:`SandboxError` where it cannot be run, or fails."""

    @abstractmethod
    async def _put(self, path: str, content: bytes) -> None:
        """Make a file, and directories on the way to it, at an absolute path."""

    @abstractmethod
    async def _get(self, path: str) -> bytes:
        """A file's content, at an absolute path; raises :class:`FileNotFoundError`."""

    async def start(self) -> Self:
        """Make the sandbox at the service, and find out its working directory."""
        if self._directory is not None:
            raise SandboxError("the sandbox was started before")
        try:
            await self._create()
            self._directory = (await self._shell(["pwd"], GRACE_SECONDS)).strip()
        except BaseException:
            await self._destroy()
            raise
        return self

    async def close(self) -> None:
        """End the sandbox at the service, and all that runs in it."""
        if self._directory is not None:
            self._directory = None
            await self._destroy()

    async def run(
        self,
        command: str | Sequence[str],
        *,
        stdin: str | bytes | None = None,
        timeout_seconds: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> CommandResult:
        """Run a command within the limits that a shell can set."""
        limits = self.limits
        seconds = math.ceil(limits.run_seconds(timeout_seconds))
        words = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        if env:
            words = ["env", *(f"{name}={value}" for name, value in env.items()), *words]
        given, fed = as_bytes(stdin), ""
        if given is not None:
            fed = f"/tmp/{uuid4().hex}.in"
            await self._put(fed, given)
        bounds = (seconds, limits.output_bytes, limits.cpu_seconds, max(1, limits.file_bytes // 512))
        arguments = [*map(str, bounds), cwd or self._home, fed]
        printed = await self._shell(["/bin/sh", "-c", SCRIPT, "sh", *arguments, *words], seconds + GRACE_SECONDS)
        return read_result(printed, seconds, limits.output_bytes)

    async def write(self, path: str, content: bytes) -> None:
        """Copy a file to the service."""
        await self._put(posixpath.join(self._home, path), content)

    async def read(self, path: str) -> bytes:
        """Copy a file from the service."""
        return await self._get(posixpath.join(self._home, path))

    @property
    def _home(self) -> str:
        if self._directory is None:
            raise SandboxError("the sandbox is closed, or was not started")
        return self._directory


def read_result(printed: str, seconds: int, keep_bytes: int) -> CommandResult:
    """Read what :data:`SCRIPT` printed."""
    try:
        answers = {name: rest for name, _, rest in (line.partition(" ") for line in printed.splitlines()[-3:])}
        took, _, code = answers["took"].strip().partition(" ")
        streams = [base64.b64decode(answers[name].strip(), validate=True) for name in ("out", "err")]
        timed_out = not code and int(took) >= seconds
        exit_code = int(code) if code else None if timed_out else 128 + 9
    except (KeyError, ValueError) as error:
        raise SandboxError(f"the sandbox's shell answered {printed[:200]!r}") from error
    kept = [as_text(stream[:keep_bytes]) for stream in streams]
    truncated = any(len(stream) > keep_bytes for stream in streams)
    return CommandResult(exit_code, kept[0], kept[1], timed_out, truncated)


def installed(package: str) -> ModuleType:
    """A service's own package. Raises :class:`SandboxError` with what to install where it is missing."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise SandboxError(f"this sandbox needs the package {package}: pip install {shlex.quote(package)}") from None
