"""A sandbox on the local machine, using the isolation that its Linux supports, and reporting it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal, Self

from ors_gym_server.sandbox.base import CommandResult, Sandbox, SandboxError, SandboxLimits, as_bytes, as_text
from ors_gym_server.sandbox.bubblewrap import Bubblewrap
from ors_gym_server.sandbox.cgroups import ControlGroup
from ors_gym_server.sandbox.confinement import Confinement, Plain, carried, carrying
from ors_gym_server.sandbox.isolation import (
    LOOK,
    USUAL,
    Isolation,
    IsolationError,
    Property,
    isolation_seen,
    laid_out,
    user_namespace_advice,
)
from ors_gym_server.sandbox.process import Ended, execute
from ors_gym_server.sandbox.sandlock import Sandlock
from ors_gym_server.sandbox.scripts import BEGUN

__all__ = ["LocalSandbox"]

WRITE = 'case $1 in */*) mkdir -p -- "${1%/*}/" || exit;; esac; rm -f -- "$1" && cat > "$1"'
READ = '[ -e "$1" ] || exit 66; [ -f "$1" ] || { echo "not a regular file" >&2; exit 1; }; exec cat < "$1"'
NO_SUCH_FILE = 66
REMOVE_SECONDS = 2.0
CANNOT_EXECUTE = 126
"""The exit code with which shells report that a command cannot be started."""
MAX_WORD_BYTES = 2**17 - 1
"""Linux's limit on one word of a command (MAX_ARG_STRLEN), without the NUL at its end."""
METHODS: tuple[type[Confinement], ...] = (Bubblewrap, Sandlock, Plain)
"""Methods from the strongest to the weakest."""


class LocalSandbox(Sandbox):
    """Runs commands on this machine, isolated from the rest of it.

    ``require`` lists the required properties (default: :data:`~ors_gym_server.sandbox.isolation.USUAL`; ``()`` accepts
    anything): :meth:`start` raises :class:`IsolationError` if the machine does not support them, with what to install.
    :meth:`isolation` returns the properties that hold. ``method`` selects one (``bubblewrap``, ``sandlock``,
    ``plain``); by default the first one with the required properties. ``mounts`` are files or directories of the host
    to mount read-only at a path in the sandbox: ``{"/orwd_data": data_path()}``. ``env`` has variables for every run.

    :meth:`isolation` reports how far the limits of :class:`SandboxLimits` are enforced. The kernel is shared with the
    host: against kernel exploits, a virtual machine is safer.

    Files persist between runs, in memory; processes do not: those that a command leaves running are killed when it
    ends. Files are written and read by processes in the sandbox, so links cannot refer to files outside.
    """

    def __init__(
        self,
        limits: SandboxLimits | None = None,
        *,
        mounts: Mapping[str, Path] | None = None,
        env: Mapping[str, str] | None = None,
        require: Collection[Property] | None = None,
        method: Literal["bubblewrap", "sandlock", "plain"] | None = None,
    ) -> None:
        self.limits = limits or SandboxLimits()
        self.require: Collection[Property] = USUAL if require is None else frozenset(require)
        if unknown := set(self.require) - USUAL - {"total memory"}:
            raise ValueError(f"no such property of a sandbox: {', '.join(sorted(unknown))}")
        if self.limits.network:
            self.require = frozenset(self.require) - {"network"}
        self._mounts = dict(mounts or {})
        self._env = dict(env or {})
        self._methods = [kind for kind in METHODS if method in (None, kind.name)]
        if not self._methods:
            raise ValueError(f"no such method: {method!r}; choose one of {', '.join(kind.name for kind in METHODS)}")
        self._confinement: Confinement | None = None
        self._isolation: Isolation | None = None
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[Ended]] = set()

    def isolation(self) -> Isolation:
        """The properties of this sandbox, as found by a process in it at the start."""
        if self._isolation is None:
            raise SandboxError("the sandbox was not started; its isolation is inspected from inside")
        return self._isolation

    async def start(self) -> Self:
        """Try the methods, strongest first. Raises :class:`IsolationError` if none has the required properties."""
        if sys.platform != "linux":
            raise IsolationError(
                f"LocalSandbox needs Linux, and this is {sys.platform}: run the server in a Linux container, or use "
                "E2BSandbox, DaytonaSandbox or ModalSandbox"
            )
        if self._confinement is not None:
            raise SandboxError("the sandbox is already started")
        failures: list[str] = []
        for kind in self._methods:
            confinement = kind(self.limits, self._mounts, ControlGroup.create(self.limits))
            try:
                isolation = await self._look(confinement)
            except SandboxError as error:
                failures.append(f"{kind.name}: {error}")
                await self._discard(confinement)
                continue
            except BaseException:
                await self._discard(confinement)
                raise
            if missing := isolation.missing(self.require):
                failures.append(f"{kind.name}: works, but does not guarantee {', '.join(missing)}")
                await self._discard(confinement)
                continue
            self._confinement, self._isolation = confinement, isolation
            return self
        raise IsolationError(
            "this machine supports no sandbox with the required properties.\n  "
            + "\n  ".join(failures)
            + f"\nFor namespaces, {user_namespace_advice()}. To accept less: LocalSandbox(require=…)."
        )

    @classmethod
    def problem(cls, limits: SandboxLimits | None = None, *, require: Collection[Property] | None = None) -> str:
        """Why this machine does not support such a sandbox; empty if it does. For programs to check before serving."""

        async def attempt() -> str:
            sandbox = cls(limits, require=require)
            try:
                await sandbox.start()
            except SandboxError as error:
                return str(error)
            await sandbox.close()
            return ""

        return asyncio.run(attempt())

    async def close(self) -> None:
        """Kill running processes, and discard the files and the control group."""
        confinement, self._confinement = self._confinement, None
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if confinement is not None:
            await self._discard(confinement)

    async def run(
        self,
        command: str | Sequence[str],
        *,
        stdin: str | bytes | None = None,
        timeout_seconds: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> CommandResult:
        """Run a command; processes that it leaves running are killed when it ends."""
        words = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        if problem := impossible([*words, cwd or ""]):
            return CommandResult(CANNOT_EXECUTE, "", problem)
        ended = await self._execute(
            words,
            stdin=as_bytes(stdin),
            env=env or {},
            cwd=cwd or "",
            timeout_seconds=self.limits.run_seconds(timeout_seconds),
            keep_bytes=self.limits.output_bytes,
        )
        code = ended.returncode
        if code is not None and code < 0:
            code = 128 - code
        return CommandResult(code, as_text(ended.stdout), as_text(ended.stderr), ended.timed_out, ended.truncated)

    async def write(self, path: str, content: bytes) -> None:
        """Write a file with a process in the sandbox."""
        if impossible([path]):
            raise SandboxError(f"no file can have the path {path[:200]!r}")
        ended = await self._file_command(WRITE, path, content, keep_bytes=4096)
        if ended.returncode != 0:
            raise SandboxError(f"could not write {len(content)} bytes to {path}: {self._reason(ended)}")

    async def read(self, path: str) -> bytes:
        """Read a file with a process in the sandbox."""
        if impossible([path]):
            raise FileNotFoundError(f"no file can have the path {path[:200]!r}")
        ended = await self._file_command(READ, path, None, keep_bytes=self.limits.file_bytes)
        if ended.returncode == NO_SUCH_FILE:
            raise FileNotFoundError(f"no such file in the sandbox: {path}")
        if ended.returncode != 0 or ended.truncated:
            raise SandboxError(f"could not read {path}: {self._reason(ended)}")
        return ended.stdout

    async def _file_command(self, script: str, path: str, stdin: bytes | None, *, keep_bytes: int) -> Ended:
        return await self._execute(
            ["/bin/sh", "-c", script, "sh", path],
            stdin=stdin,
            env={},
            timeout_seconds=self.limits.wall_seconds,
            keep_bytes=keep_bytes,
        )

    def _reason(self, ended: Ended) -> str:
        if ended.truncated:
            return f"it is larger than {self.limits.file_bytes} bytes"
        return as_text(ended.stderr).strip() or ("it took too long" if ended.timed_out else "it was stopped by a limit")

    def _environment(self, confinement: Confinement) -> dict[str, str]:
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": confinement.home,
            "TMPDIR": confinement.temporary,
            "USER": "sandbox",
            "LANG": "C.UTF-8",
            **self._env,
        }

    async def _execute(
        self,
        words: Sequence[str],
        *,
        stdin: bytes | None,
        env: Mapping[str, str],
        cwd: str = "",
        timeout_seconds: float,
        keep_bytes: int,
        confinement: Confinement | None = None,
    ) -> Ended:
        confinement = confinement or self._confinement
        if confinement is None:
            raise SandboxError("the sandbox is closed, or was not started")
        environment = self._environment(confinement) | dict(env)
        turn = nullcontext() if confinement.overlapping else self._turn
        async with turn:
            task = asyncio.ensure_future(
                execute(
                    confinement.arguments(carrying(environment, cwd, words)),
                    environment=carried(environment),
                    directory="/" if confinement.namespaces else confinement.home,
                    stdin=stdin,
                    timeout_seconds=timeout_seconds,
                    keep_bytes=keep_bytes + len(BEGUN),
                    monitor=confinement.namespaces,
                    ends_itself=confinement.ends_itself,
                    kill_leftovers=confinement.kill_leftovers,
                )
            )
            self._running.add(task)
            try:
                ended = await task
                if not ended.begun and ended.returncode is not None:
                    reason = as_text(ended.stderr).strip() or f"its first process ended with {ended.returncode}"
                    raise SandboxError(f"the command was not started: {reason}")
                return ended.of_command(keep_bytes)
            except asyncio.CancelledError:
                caller = asyncio.current_task()
                if self._confinement is confinement or (caller is not None and caller.cancelling()):
                    raise
                raise SandboxError("the sandbox was closed while the command ran") from None
            except OSError as error:
                raise SandboxError(f"could not start a process: {error}") from error
            finally:
                self._running.discard(task)

    async def _look(self, confinement: Confinement) -> Isolation:
        """Open the sandbox, run a first process, and inspect the isolation."""
        await confinement.open()
        with laid_out() as bait:
            ended = await self._execute(
                ["/bin/sh", "-c", LOOK, "sh", *bait.arguments],
                stdin=None,
                env={},
                timeout_seconds=max(10.0, self.limits.wall_seconds),
                keep_bytes=2**16,
                confinement=confinement,
            )
            left_behind = await asyncio.to_thread(lambda: bait.left_behind)
        if ended.returncode != 0:
            raise SandboxError(as_text(ended.stderr).strip() or f"its first process ended with {ended.returncode}")
        passed_in = self._environment(confinement).keys()
        return isolation_seen(as_text(ended.stdout), left_behind, confinement, passed_in)

    async def _discard(self, confinement: Confinement) -> None:
        await confinement.close()
        group = confinement.group
        group.kill()
        group.remove()
        for _ in range(20):  # the kernel removes a group only when its last process is dead
            if group.gone:
                return
            await asyncio.sleep(REMOVE_SECONDS / 20)
            group.remove()


def impossible(words: Sequence[str]) -> str:
    """Why Linux does not accept these words as a command; empty if it does. They may come from an agent."""
    try:
        encoded = [os.fsencode(word) for word in words]
    except UnicodeEncodeError:
        return "sh: a command cannot hold characters that UTF-8 has no bytes for\n"
    if any(b"\0" in word for word in encoded):
        return "sh: a command cannot hold NUL characters\n"
    if any(len(word) > MAX_WORD_BYTES for word in encoded):
        return f"sh: a command is longer than {MAX_WORD_BYTES} bytes: write it to a file in parts, and run that\n"
    return ""
