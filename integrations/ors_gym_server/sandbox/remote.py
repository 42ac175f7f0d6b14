"""The common part of remote sandboxes: a shell and file transfer at a service.

Limits that a shell can enforce are set by one script, which every image with a POSIX shell, coreutils (or BusyBox) and
``mktemp`` can run: time, processor time, file size and output. Limits that only the service can enforce (memory, disk,
network) are passed to the service by each class, which documents them.
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
"""Runs a command within limits; prints its duration in seconds and exit code (none if it was killed), then its output
and standard error in base64, one line each."""

GRACE_SECONDS = 30.0
"""Extra seconds that the service may take beyond the command's time limit."""


class RemoteSandbox(Sandbox):
    """A sandbox at a service, which enforces ``wall_seconds`` (rounded up to whole seconds), ``cpu_seconds``,
    ``file_bytes`` and ``output_bytes``; each class documents further limits.

    The service ends the sandbox after ``lifetime_seconds`` even without its owner. Processes that a command leaves
    running continue until then, or until :meth:`close`.
    """

    def __init__(self, limits: SandboxLimits | None = None, *, lifetime_seconds: int = 3600) -> None:
        self.limits = limits or SandboxLimits()
        self.lifetime_seconds = lifetime_seconds
        self._directory: str | None = None

    @abstractmethod
    async def _create(self) -> None:
        """Create the sandbox at the service."""

    @abstractmethod
    async def _destroy(self) -> None:
        """End the sandbox. Called once, also after :meth:`_create` failed."""

    @abstractmethod
    async def _shell(self, arguments: Sequence[str], seconds: float) -> str:
        """The output of a program. Raises :class:`SandboxError` if it cannot be run or fails."""

    @abstractmethod
    async def _put(self, path: str, content: bytes) -> None:
        """Write a file at an absolute path, creating its parent directories."""

    @abstractmethod
    async def _get(self, path: str) -> bytes:
        """The content of a file at an absolute path. Raises :class:`FileNotFoundError`."""

    async def start(self) -> Self:
        """Create the sandbox at the service, and read its working directory."""
        if self._directory is not None:
            raise SandboxError("the sandbox is already started")
        try:
            await self._create()
            self._directory = (await self._shell(["pwd"], GRACE_SECONDS)).strip()
        except BaseException:
            await self._destroy()
            raise
        return self

    async def close(self) -> None:
        """End the sandbox at the service, with everything in it."""
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
    """Parse the output of :data:`SCRIPT`."""
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
    """Import a service's package. Raises :class:`SandboxError` with the package to install if it is missing."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise SandboxError(f"this sandbox needs the package {package}: pip install {shlex.quote(package)}") from None
