"""What an environment that runs other people's code needs: a place to run it, and limits.

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

A command that fails, is killed or takes too long is a :class:`CommandResult`: the agent's business. A sandbox that
cannot be had, or broke, is a :class:`SandboxError`: the environment's fault, and no reward.
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
    """The sandbox itself failed: it could not be started, is closed, or its service does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """What programs in a sandbox may use at most. Which of these a sandbox holds to, its class says."""

    wall_seconds: float = 30.0
    """How long one run may take."""
    cpu_seconds: int = 30
    """Processor time of one process."""
    memory_bytes: int = 512 * 2**20
    """Memory: of all processes and files together where that can be had, else of each process."""
    processes: int = 64
    """Processes and threads at one time."""
    open_files: int = 1024
    """Files that one process holds open."""
    output_bytes: int = 2**20
    """How much is kept of a run's standard output, and as much of its standard error; what follows is dropped."""
    file_bytes: int = 64 * 2**20
    """The size of one file."""
    disk_bytes: int = 256 * 2**20
    """The size of all files that the sandbox keeps."""
    network: bool = False
    """Whether programs reach the network: locally the host's own, with all that listens on its loopback address."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value: float = getattr(self, item.name)
            if item.name != "network" and not value > 0:
                raise ValueError(f"SandboxLimits.{item.name} must be positive, got {value!r}")

    def run_seconds(self, timeout_seconds: float | None) -> float:
        """How long a run may take whose caller asked for ``timeout_seconds``: never longer than the limit."""
        if timeout_seconds is None:
            return self.wall_seconds
        if not timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be positive, got {timeout_seconds!r}")
        return min(timeout_seconds, self.wall_seconds)


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended, and what it wrote (as UTF-8, with U+FFFD for what is not)."""

    exit_code: int | None
    """The command's own, 128 + n where signal n killed it; None where it was stopped by us."""
    stdout: str
    stderr: str
    timed_out: bool = False
    """The run took longer than it was allowed, and was killed."""
    truncated: bool = False
    """It wrote more than ``output_bytes``; only the beginning was kept."""

    @property
    def ok(self) -> bool:
        """Whether the command ended by itself, with exit code 0."""
        return self.exit_code == 0


class Sandbox(ABC):
    """A place where commands run, apart from the host, with files that last from run to run until it is closed.

    ``async with sandbox:``, or :meth:`start` and :meth:`close`, which an environment's ``setup`` and ``teardown``
    call. Relative paths are below the sandbox's working directory.
    """

    limits: SandboxLimits

    @abstractmethod
    async def start(self) -> Self:
        """Make the sandbox; raises :class:`SandboxError` where it cannot be had."""

    @abstractmethod
    async def close(self) -> None:
        """Kill what runs and discard the files. Closing again, or what was never started, does nothing."""

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
        """Run a command: a string by the shell, a sequence as it is, word by word.

        ``timeout_seconds`` can shorten the limit's ``wall_seconds``, not lengthen it. ``env`` are all the environment
        variables that are passed in, beside ``PATH`` and the like. Runs may overlap.
        """

    @abstractmethod
    async def write(self, path: str, content: bytes) -> None:
        """Make ``path``, and directories on the way to it, in the sandbox; what was there is replaced."""

    @abstractmethod
    async def read(self, path: str) -> bytes:
        """The content of a file in the sandbox. Raises :class:`FileNotFoundError` where there is no such file."""

    async def upload(self, source: bytes | Path, path: str) -> None:
        """Copy bytes, a file or a whole directory of the host's to ``path`` in the sandbox.

        Links inside a directory are copied as links, so they point to what is there in the sandbox.
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
        """Copy a file out of the sandbox: its bytes, or to the file ``target`` of the host's, which is returned."""
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
    """The directory's content as a tar archive that says nothing of the host's users."""

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
    """Where the environment's data lies: ``/orwd_data``, or what the variable ``ORWD_DATA`` says, and ``parts`` below.

    Symbolic links are followed, and may not lead out of the folder either: ``parts`` may come from a task or an agent.

    Raises:
        FileNotFoundError: There is no such thing.
        ValueError: It is not below the folder, or a part holds a NUL.
    """
    root = Path(os.environ.get("ORWD_DATA") or "/orwd_data")
    if any("\0" in part for part in parts):
        raise ValueError(f"a path of environment data holds a NUL: {parts!r}")
    path = root.joinpath(*parts)
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{'/'.join(parts)!r} is not below the folder of the environment's data, {root}")
    if not path.exists():
        raise FileNotFoundError(f"no environment data at {path}: put it there, or set ORWD_DATA to where it lies")
    return path


def as_text(output: bytes | bytearray | memoryview[Any]) -> str:
    """A command's output as text."""
    return bytes(output).decode("utf-8", errors="replace")


def as_bytes(stdin: str | bytes | None) -> bytes | None:
    """What a command reads."""
    return stdin.encode("utf-8", "surrogatepass") if isinstance(stdin, str) else stdin
