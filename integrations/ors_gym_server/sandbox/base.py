"""The interface of sandboxes, for environments that run untrusted code, and their limits.

::

    class Coding(Environment):
        def __init__(self, task_spec=None, secrets=None) -> None:
            super().__init__(task_spec, secrets)
            self.sandbox = LocalSandbox(SandboxLimits(wall_seconds=10))

        async def setup(self) -> None:
            await self.sandbox.start()

        async def teardown(self) -> None:
            await self.sandbox.close()

        @tool
        async def bash(self, params: Bash) -> ToolOutput:
            result = await self.sandbox.run(params.command)
            return ToolOutput((TextBlock(result.stdout + result.stderr),))

A command that fails, is killed or takes too long is a :class:`CommandResult`, for the agent to handle. A sandbox that
cannot be created, or broke, is a :class:`SandboxError`: an error of the environment, without a reward.
"""

from __future__ import annotations

import asyncio
import io
import os
import shlex
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self, overload
from uuid import uuid4

__all__ = ["CommandResult", "Sandbox", "SandboxError", "SandboxLimits", "data_path"]


class SandboxError(Exception):
    """The sandbox itself failed: it could not be started, is closed, or its service does not respond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """Limits of programs in a sandbox. Each sandbox class documents which of them it enforces."""

    wall_seconds: float = 30.0
    """Maximum wall time of one run, in seconds."""
    cpu_seconds: int = 30
    """Maximum processor time of one process, in seconds."""
    memory_bytes: int = 512 * 2**20
    """Maximum memory in bytes: of all processes and files together if possible, else of each process."""
    processes: int = 64
    """Maximum number of processes and threads."""
    open_files: int = 1024
    """Maximum number of open files per process."""
    output_bytes: int = 2**20
    """Maximum bytes kept of a run's standard output, and of its standard error; further output is dropped."""
    file_bytes: int = 64 * 2**20
    """Maximum size of one file, in bytes."""
    disk_bytes: int = 256 * 2**20
    """Maximum size of all files in the sandbox, in bytes."""
    network: bool = False
    """Whether programs can reach the network: locally the host's own, including services on its loopback address."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value: float = getattr(self, item.name)
            if item.name != "network" and not value > 0:
                raise ValueError(f"SandboxLimits.{item.name} must be positive, got {value!r}")

    def run_seconds(self, timeout_seconds: float | None) -> float:
        """The time limit of a run, in seconds: ``timeout_seconds``, but at most ``wall_seconds``."""
        if timeout_seconds is None:
            return self.wall_seconds
        if not timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be positive, got {timeout_seconds!r}")
        return min(timeout_seconds, self.wall_seconds)


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The outcome and output of a command (decoded as UTF-8, with U+FFFD for invalid bytes)."""

    exit_code: int | None
    """The command's exit code, or 128 + n if signal n killed it; None if the sandbox stopped it."""
    stdout: str
    stderr: str
    timed_out: bool = False
    """Whether the run exceeded its time limit and was killed."""
    truncated: bool = False
    """Whether it wrote more than ``output_bytes``; only the beginning is kept."""

    @property
    def ok(self) -> bool:
        """Whether the command ended with exit code 0."""
        return self.exit_code == 0


class Sandbox(ABC):
    """An isolated place to run commands, with files that persist between runs until it is closed.

    Use ``async with sandbox:``, or :meth:`start` and :meth:`close` in an environment's ``setup`` and ``teardown``.
    Relative paths are below the sandbox's working directory.
    """

    limits: SandboxLimits

    @abstractmethod
    async def start(self) -> Self:
        """Create the sandbox. Raises :class:`SandboxError` if that is not possible."""

    @abstractmethod
    async def close(self) -> None:
        """Kill running processes and discard the files. Does nothing if closed already or never started."""

    @abstractmethod
    async def run(
        self,
        command: str | Sequence[str],
        *,
        stdin: str | bytes | None = None,
        timeout_seconds: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> CommandResult:
        """Run a command: a string with the shell, a sequence without one.

        ``timeout_seconds`` can shorten the limit ``wall_seconds``, but not extend it. ``env`` is the complete
        environment of the command besides ``PATH`` and similar variables. Runs may overlap.
        """

    @abstractmethod
    async def write(self, path: str, content: bytes) -> None:
        """Write a file in the sandbox, creating its parent directories; an existing file is replaced."""

    @abstractmethod
    async def read(self, path: str) -> bytes:
        """The content of a file in the sandbox. Raises :class:`FileNotFoundError` if it does not exist."""

    async def upload(self, source: bytes | Path, path: str) -> None:
        """Copy bytes, a file or a directory of the host to ``path`` in the sandbox.

        Links inside a directory are copied as links, so they refer to files in the sandbox.
        """
        if isinstance(source, bytes):
            await self.write(path, source)
        elif not await asyncio.to_thread(source.is_dir):
            await self.write(path, await asyncio.to_thread(source.read_bytes))
        else:
            archive = f".{uuid4().hex}.tar"
            await self.write(archive, await asyncio.to_thread(packed, source))
            where = shlex.quote(str(PurePosixPath(path)))
            result = await self.run(
                f"mkdir -p -- {where} && tar -xf {archive} -C {where}; code=$?; rm -f {archive}; exit $code"
            )
            if not result.ok:
                raise SandboxError(f"could not upload {source} to {path}: {result.stderr.strip() or result}")

    @overload
    async def download(self, path: str) -> bytes: ...

    @overload
    async def download(self, path: str, target: Path) -> Path: ...

    async def download(self, path: str, target: Path | None = None) -> bytes | Path:
        """Copy a file out of the sandbox: return its bytes, or write them to ``target`` and return that path."""
        content = await self.read(path)
        if target is None:
            return content
        await asyncio.to_thread(target.write_bytes, content)
        return target

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def packed(directory: Path) -> bytes:
    """The directory's content as a tar archive without the host's user names."""

    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member if member.isreg() or member.isdir() or member.issym() or member.islnk() else None

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for item in sorted(directory.iterdir()):
            archive.add(item, arcname=item.name, filter=anonymous)
    return buffer.getvalue()


def data_path(*parts: str) -> Path:
    """The path of the environment's data: ``parts`` below ``/orwd_data``, or below the variable ``ORWD_DATA``.

    Symbolic links are resolved and must not leave the folder: ``parts`` may come from a task or an agent.

    Raises:
        FileNotFoundError: The path does not exist.
        ValueError: The path is not below the folder, or a part contains a NUL.
    """
    root = Path(os.environ.get("ORWD_DATA") or "/orwd_data")
    if any("\0" in part for part in parts):
        raise ValueError(f"a path of environment data holds a NUL: {parts!r}")
    path = root.joinpath(*parts)
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{'/'.join(parts)!r} is not below the folder of the environment's data, {root}")
    if not path.exists():
        raise FileNotFoundError(f"no environment data at {path}: put it there, or set ORWD_DATA to its folder")
    return path


def as_text(output: bytes | bytearray | memoryview[Any]) -> str:
    """A command's output as text."""
    return bytes(output).decode("utf-8", errors="replace")


def as_bytes(stdin: str | bytes | None) -> bytes | None:
    """A command's input as bytes."""
    return stdin.encode("utf-8", "surrogatepass") if isinstance(stdin, str) else stdin
