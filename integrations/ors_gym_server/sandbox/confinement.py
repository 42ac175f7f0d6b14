"""Methods of starting a process isolated from the host: the common base, and the weakest one.

``bubblewrap``
    New user, mount, PID, network, IPC, UTS and control-group namespaces by the ``bwrap`` program, and a filter of
    system calls.
``sandlock``
    Landlock and seccomp by the package ``sandlock``: no namespaces, so it works in containers that allow none.
``plain``
    Resource limits, no new privileges and, where we are root, a user id of the sandbox's own: no isolation, files and
    network are those of the host.

As root, every sandbox runs as its own user without capabilities, so that a hole in the isolation does not give root. A
sandbox's files are always discarded when the server ends: a separate process waits for the end of its input, and then
discards them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import randrange

from ors_gym_server.sandbox.base import SandboxError, SandboxLimits
from ors_gym_server.sandbox.cgroups import ControlGroup
from ors_gym_server.sandbox.scripts import CARRY, DISCARD, JOIN, SYSTEM_PATH, WORK

__all__ = ["Confinement", "Directory", "Plain", "carried", "carrying", "found", "has_capability"]

CLOSE_SECONDS = 5.0
"""Time limit for the process that discards the files, in seconds."""


class Confinement(ABC):
    """The way in which one sandbox starts its processes."""

    name: str
    needs: tuple[str, ...]
    """Required programs of the host."""
    package: str = "util-linux 2.38 or newer"
    """The package that provides them."""
    home: str = WORK
    """The working directory, as seen by programs."""
    temporary: str = "/tmp"
    """The directory for temporary files, as seen by programs."""
    namespaces = False
    """Whether processes run in their own namespaces."""
    overlapping = True
    """Whether runs may overlap: processes left behind by a run can be found without affecting other runs."""
    ends_itself = False
    """Whether a run ends by SIGTERM to its first process, which then ends all others."""
    keeper: asyncio.subprocess.Process | None = None
    """The process that waits for the server's end, and then discards the files."""

    def __init__(self, limits: SandboxLimits, mounts: Mapping[str, Path], group: ControlGroup) -> None:
        self.limits = limits
        self.mounts = mounts
        self.group = group
        self.user: int | None = None
        """The user id of this sandbox's processes on the host; None for the server's own."""
        self.claim: socket.socket | None = None

    @abstractmethod
    async def open(self) -> None:
        """Prepare the sandbox. Raises :class:`SandboxError` if the machine does not support it."""

    @abstractmethod
    def arguments(self, command: Sequence[str]) -> list[str]:
        """The program and arguments that run the command confined."""

    async def kill_leftovers(self) -> None:  # noqa: B027 - mostly there is nothing to do
        """Kill processes left behind by a run, if the kernel does not."""

    async def close(self) -> None:
        """Discard the files."""
        if self.claim is not None:
            self.claim.close()

    async def keep(self, *arguments: str) -> None:
        """Start the process that keeps the files, and wait until it is ready."""
        self.keeper = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": SYSTEM_PATH},
            cwd="/",
            start_new_session=True,
        )
        assert self.keeper.stdout is not None
        assert self.keeper.stderr is not None
        if await self.keeper.stdout.readline() != b"ready\n":
            message = (await self.keeper.stderr.read(4096)).decode(errors="replace").strip()
            raise SandboxError(message or "the process that keeps the files exited immediately")

    def check_programs(self) -> None:
        """Raise SandboxError if a program is missing."""
        if missing := [program for program in self.needs if not found(program)]:
            raise SandboxError(f"not installed: {', '.join(missing)}; install {self.package}")

    def claim_user(self) -> None:
        """Reserve a user id that no other sandbox of this machine has, if permitted."""
        if not may_change_user():
            return
        self.claim = socket.socket(socket.AF_UNIX)
        first = randrange(len(USERS))  # not the one freed last: its zombies may still count against its limit
        for user in (*USERS[first:], *USERS[:first]):
            with suppress(OSError):
                self.claim.bind(
                    f"\0ors-gym-sandbox-{user}"
                )  # an abstract address: the kernel frees it with this process
                self.user = user
                return
        raise SandboxError("all user ids for sandboxes are in use")

    @property
    def dropping(self) -> list[str]:
        """Become the sandbox's user, and end with the thread that started this process."""
        return ["setpriv", *self.becoming, "--pdeathsig=KILL"]

    @property
    def becoming(self) -> list[str]:
        """The options of ``setpriv`` that name the sandbox's user."""
        return [] if self.user is None else [f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"]

    @property
    def joining(self) -> list[str]:
        """Join the control group, if there is one."""
        return ["/bin/sh", "-c", JOIN, "sh", self.group.joining] if self.group.joining else []

    @property
    def counts_processes(self) -> bool:
        """Whether RLIMIT_NPROC counts only this sandbox's processes."""
        return self.user is not None or self.namespaces

    @property
    def limiting(self) -> list[str]:
        """Resource limits, applied last: inside a user namespace, processes are counted by namespace."""
        limits = self.limits
        memory = [] if self.group.memory else [f"--as={limits.memory_bytes}"]
        processes = [f"--nproc={limits.processes}"] if self.counts_processes else []
        cpu = f"--cpu={limits.cpu_seconds}:{limits.cpu_seconds + 1}"
        files = [f"--fsize={limits.file_bytes}", f"--nofile={limits.open_files}"]
        return ["prlimit", cpu, *files, "--core=0", *memory, *processes, "--"]

    def mounting_problem(self, reserved: str) -> str | None:
        """Why the mounts are not possible; None if they are."""
        for inside, source in self.mounts.items():
            if not inside.startswith("/") or ".." in inside.split("/") or inside.strip("/") in ("", "proc", "dev"):
                return f"{inside!r} is not a valid mount point: use an absolute path"
            if not source.exists():
                return f"there is nothing at {source} to mount at {inside}"
            if source.resolve().is_relative_to(reserved):
                return f"{source} is below {reserved}, which sandboxes use themselves"
        return None


class Directory(Confinement):
    """A sandbox with its files in a directory of the host's temporary folder."""

    async def open(self) -> None:
        """Create the directory, and start the process that discards it."""
        self.check_programs()
        self.claim_user()
        self.home = tempfile.mkdtemp(prefix="ors-gym-sandbox-")
        self.temporary = f"{self.home}/.tmp"
        os.mkdir(self.temporary, 0o700)
        if self.user is not None:
            for path in (self.home, self.temporary):
                os.chown(path, self.user, self.user)
        await self.keep("/bin/sh", "-c", DISCARD, "sh", self.home, *self.killing)

    @property
    def killing(self) -> list[str]:
        """The command that kills all processes of the sandbox's user, if it has its own."""
        if self.user is None:
            return []
        return ["setpriv", *self.becoming, "--", "/bin/sh", "-c", "kill -9 -1 2>/dev/null || :"]

    async def close(self) -> None:
        """Remove the directory, and kill remaining processes."""
        if self.keeper is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self.keeper.communicate()
            with suppress(ProcessLookupError):
                self.keeper.kill()
            await self.keeper.wait()
        if self.home != WORK:
            await self.kill_leftovers()
            await asyncio.to_thread(shutil.rmtree, self.home, ignore_errors=True)
        await super().close()


class Plain(Directory):
    """No isolation: limits, reduced privileges, and a separate directory."""

    name = "plain"
    needs = ("setpriv", "prlimit")
    overlapping = False  # leftover processes are found by their user or group, which all runs share

    async def open(self) -> None:
        """Create the directory."""
        if self.mounts:
            raise SandboxError("it cannot mount anything")
        await super().open()

    def arguments(self, command: Sequence[str]) -> list[str]:
        """The command with limits and reduced privileges."""
        bounds = [] if self.user is None else ["--bounding-set=-all"]
        rights = [*self.dropping, *bounds, "--inh-caps=-all", "--no-new-privs", "--"]
        return [*self.joining, *rights, *self.limiting, *command]

    async def kill_leftovers(self) -> None:
        """Kill processes that left the process group, by their user or control group."""
        if self.user is None:
            self.group.kill()
            return
        killer = await asyncio.create_subprocess_exec(*self.killing, env={"PATH": SYSTEM_PATH})
        await killer.wait()


def carrying(environment: Mapping[str, str], directory: str, command: Sequence[str]) -> list[str]:
    """The command behind the script that sets its environment; :func:`carried` returns the variables for it."""
    return ["/bin/sh", "-c", CARRY, "sh", str(len(environment)), directory, *command]


def carried(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of the confining programs: none of the host's variables, and the sandbox's under other names."""
    for name, value in environment.items():
        if not name.isidentifier() or not name.isascii() or name.startswith("ORS_SANDBOX"):
            raise ValueError(f"{name!r} cannot be the name of an environment variable here")
        if "\0" in value:
            raise ValueError(f"the environment variable {name} cannot hold a NUL")
    pairs = (f"{name}={value}" for name, value in environment.items())
    return {"PATH": SYSTEM_PATH} | {f"ORS_SANDBOX_{number}": pair for number, pair in enumerate(pairs)}


USERS = range(61184, 65520)
"""User ids for sandboxes: systemd's range for temporary users."""

CAP_SETGID, CAP_SETUID = 6, 7


def found(program: str) -> str | None:
    """The path of a program, as this process or the confining programs find it."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")


def may_change_user() -> bool:
    """Whether this process is root and may become one of :data:`USERS`, which a user namespace may forbid."""
    if os.geteuid() != 0 or not (has_capability(CAP_SETUID) and has_capability(CAP_SETGID)):
        return False
    ranges = (line.split() for line in Path("/proc/self/uid_map").read_text().splitlines())
    return any(int(first) <= USERS.start and USERS.stop <= int(first) + int(count) for first, _, count in ranges)


def has_capability(number: int) -> bool:
    """Whether this process has the capability."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False
