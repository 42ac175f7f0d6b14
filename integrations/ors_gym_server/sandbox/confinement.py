"""Three ways to start a process apart from the host, from the strongest that is at hand to the weakest.

``bubblewrap``
    New user, mount, PID, network, IPC, UTS and control-group namespaces by the ``bwrap`` program.
``unshare``
    The same namespaces and the same view of files by util-linux alone, for machines without ``bwrap``.
``plain``
    Resource limits, no new privileges and, where we are root, a user id of the sandbox's own. No namespaces: files
    and network are those of the host.

The first two keep a sandbox's files in a memory file system of bounded size. It belongs to the mount namespace of a
process that waits for the end of its input, so it is gone with us, however we end. Where we are root, every sandbox
runs as its own user without rights, so that a hole in the namespaces is not root's either.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import randrange

from ors_gym_server.sandbox.base import SandboxError, SandboxLimits
from ors_gym_server.sandbox.cgroups import ControlGroup
from ors_gym_server.sandbox.scripts import (
    CARRY,
    FIRST,
    JAIL,
    JOIN,
    KEEP,
    NETWORK_SETTINGS,
    SETTINGS,
    STORE,
    SYSTEM,
    SYSTEM_PATH,
    VIEW,
    WAIT,
    WORK,
)

__all__ = ["METHODS", "Bubblewrap", "Confinement", "Plain", "Unshare", "carried", "carrying"]


class Confinement(ABC):
    """How one sandbox starts its processes."""

    name: str
    needs: tuple[str, ...]
    """Programs of the host's."""
    package: str = "util-linux 2.38 or newer"
    """Where to get them."""
    home: str = WORK
    """The working directory, as programs see it."""
    noise: bytes = b""
    """What its monitor says on standard error when we kill its child."""
    namespaces = True
    """Whether processes run in namespaces of their own, so that runs may overlap and all of each ends at once."""

    def __init__(self, limits: SandboxLimits, mounts: Mapping[str, Path], group: ControlGroup) -> None:
        self.limits = limits
        self.mounts = mounts
        self.group = group
        self.user: int | None = None
        """The user id, on the host, of this sandbox's processes; None where it is ours."""
        self.claim: socket.socket | None = None

    @abstractmethod
    async def open(self) -> None:
        """Make ready; raises :class:`SandboxError` where this machine cannot."""

    @abstractmethod
    def arguments(self, command: Sequence[str]) -> list[str]:
        """The program and arguments that run the command confined."""

    async def kill_leftovers(self) -> None:  # noqa: B027 - with namespaces there is nothing to do
        """Kill what a run left behind, where that does not happen by itself."""

    async def close(self) -> None:
        """Discard the files."""
        if self.claim is not None:
            self.claim.close()

    def check_programs(self) -> None:
        """Raise where a program is missing."""
        if missing := [program for program in self.needs if not found(program)]:
            raise SandboxError(f"not installed: {', '.join(missing)}; install {self.package}")

    def claim_user(self) -> None:
        """Where we may: take a user id that no other sandbox of this machine has."""
        if not may_change_user():
            return
        self.claim = socket.socket(socket.AF_UNIX)
        first = randrange(len(USERS))  # not the one given back last: its zombies may still count against its limit
        for user in (*USERS[first:], *USERS[:first]):
            with suppress(OSError):
                self.claim.bind(f"\0ors-gym-sandbox-{user}")  # an abstract address: the kernel frees it with us
                self.user = user
                return
        raise SandboxError("no user id is left for one more sandbox")

    @property
    def dropping(self) -> list[str]:
        """Become the sandbox's user, and end when the thread that started this process does."""
        ids = [] if self.user is None else [f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"]
        return ["setpriv", *ids, "--pdeathsig=KILL"]

    @property
    def joining(self) -> list[str]:
        """Join the control group, if there is one."""
        return ["/bin/sh", "-c", JOIN, "sh", *self.group.joining, "--"] if self.group.joining else []

    @property
    def limiting(self) -> list[str]:
        """Resource limits, to be set last: inside a user namespace, processes are counted by namespace."""
        limits = self.limits
        memory = [] if self.group.memory else [f"--as={limits.memory_bytes}"]
        counted = self.user is not None or self.namespaces
        processes = [f"--nproc={limits.processes}"] if counted else []
        cpu = f"--cpu={limits.cpu_seconds}:{limits.cpu_seconds + 1}"
        return ["prlimit", cpu, f"--fsize={limits.file_bytes}", "--core=0", *memory, *processes, "--"]

    def mounting_problem(self) -> str | None:
        """Why the mounts cannot be had, if they cannot."""
        for inside, source in self.mounts.items():
            if not inside.startswith("/") or ".." in inside.split("/") or inside.strip("/") in ("", "proc", "dev"):
                return f"{inside!r} is no place to mount something: an absolute path is wanted"
            if not source.exists():
                return f"there is nothing at {source} to mount at {inside}"
            if source.resolve().is_relative_to(STORE):
                return f"{source} lies under {STORE}, which sandboxes use themselves"
        return None


class Namespaced(Confinement):
    """What the two ways with namespaces have in common: the process that keeps the sandbox's files."""

    keeper: asyncio.subprocess.Process | None = None
    privileged = False
    """Whether the keeper is root with its usual rights: it then mounts without its own user namespace."""
    needs: tuple[str, ...] = ("nsenter", "setpriv", "prlimit", "unshare", "mount")

    async def open(self) -> None:
        """Start the process that keeps the files."""
        if problem := self.mounting_problem():
            raise SandboxError(problem)
        self.check_programs()
        self.claim_user()
        self.privileged = os.geteuid() == 0 and has_capability(CAP_SYS_ADMIN)
        user_namespace = [] if self.privileged else ["--user", "--map-root-user"]
        becoming = [] if self.privileged else [*self.dropping, "--"]
        limits = self.limits
        self.keeper = await asyncio.create_subprocess_exec(
            *becoming,
            *("unshare", *user_namespace, "--mount", "--propagation=private", "--"),
            *("/bin/sh", "-c", KEEP + self.viewing() + WAIT, "sh"),
            *(str(limits.disk_bytes), str(max(1024, limits.disk_bytes // 4096))),
            *(str(self.user or "") if self.privileged else "", " ".join(self.settings)),
            *(str(source.resolve()) for source in self.mounts.values()),
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
            said = (await self.keeper.stderr.read(4096)).decode(errors="replace").strip()
            raise SandboxError(said or "the process that keeps the files ended at once")

    def viewing(self) -> str:
        """What the keeper's script does besides."""
        return ""

    async def close(self) -> None:
        """End the process that keeps the files, and the files with it."""
        if self.keeper is not None:
            with suppress(ProcessLookupError):
                self.keeper.kill()
            await self.keeper.communicate()
        await super().close()

    @property
    def entering(self) -> list[str]:
        """Go where the sandbox's files are, as its user."""
        if self.keeper is None or self.keeper.returncode is not None:
            raise SandboxError("the process that keeps the sandbox's files has died")
        there = [f"--target={self.keeper.pid}", "--mount"]
        if self.privileged:
            return ["nsenter", *there, "--", *self.dropping, "--"]
        # In the keeper's user namespace we are its root, who is nobody but ourselves outside.
        becoming = [] if self.user is None else [*self.dropping, "--"]
        nsenter = ["nsenter", *there, "--user", "--preserve-credentials", "--"]
        return [*becoming, *nsenter, "setpriv", "--pdeathsig=KILL", "--"]

    @property
    def settings(self) -> tuple[str, ...]:
        """What is seen of ``/etc``."""
        return SETTINGS + NETWORK_SETTINGS if self.limits.network else SETTINGS


class Bubblewrap(Namespaced):
    """Namespaces by ``bwrap``."""

    name = "bubblewrap"
    package = "bubblewrap 0.8 or newer"
    needs = ("bwrap", *Namespaced.needs)

    def arguments(self, command: Sequence[str]) -> list[str]:
        """The command in namespaces of its own, by ``bwrap``."""
        first = ["/bin/sh", "-c", FIRST, "sh"]
        return [*self.joining, *self.entering, *self.wrapping(), "--", *first, *self.limiting, *command]

    def wrapping(self) -> Iterator[str]:
        """The options that say what the sandbox is."""
        yield from (found("bwrap") or "bwrap", "--unshare-all", "--unshare-user", "--disable-userns")
        if self.limits.network:
            yield "--share-net"
        yield from ("--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--cap-drop", "ALL")
        yield from ("--die-with-parent", "--as-pid-1")
        for name in SYSTEM:
            path = Path("/", name)
            if path.is_symlink():
                yield from ("--symlink", str(path.readlink()), str(path))
            elif path.is_dir():
                yield from ("--ro-bind", str(path), str(path))
        yield from ("--proc", "/proc", "--dev", "/dev", "--bind", f"{STORE}/shm", "/dev/shm", "--remount-ro", "/dev")
        yield from ("--bind", f"{STORE}/work", WORK, "--bind", f"{STORE}/tmp", "/tmp")
        for name in ("passwd", "group"):
            yield from ("--ro-bind", f"{STORE}/{name}", f"/etc/{name}")
        for name in self.settings:
            yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")
        for number, inside in enumerate(self.mounts):
            yield from ("--ro-bind", f"{STORE}/mounts/{number}", inside)
        yield from ("--remount-ro", "/", "--chdir", WORK)


class Unshare(Namespaced):
    """Namespaces by ``unshare``, and a script that mounts what ``bwrap`` would."""

    name = "unshare"
    noise = b"unshare: sigprocmask unblock failed: Invalid argument\n"  # util-linux 2.38
    needs = (*Namespaced.needs, "pivot_root", "umount")

    def arguments(self, command: Sequence[str]) -> list[str]:
        """The command in namespaces of its own, by ``unshare``."""
        namespaces = ["--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child=KILL"]
        namespaces += ["--ipc", "--uts", "--cgroup", *([] if self.limits.network else ["--net"])]
        jail = ["/bin/sh", "-c", JAIL, "sh"]
        return [*self.joining, *self.entering, "unshare", *namespaces, "--", *jail, *self.limiting, *command]

    def viewing(self) -> str:
        """The root directory that programs see."""
        mounts = (f"show mounts/{number} {shlex.quote(inside)}\n" for number, inside in enumerate(self.mounts))
        return VIEW + "".join(mounts) + "mount -o remount,bind,ro root\n"


class Plain(Confinement):
    """No namespaces: limits, fewer rights, and a directory in the host's own temporary one."""

    name = "plain"
    needs = ("setpriv", "prlimit")
    namespaces = False  # what a run left behind is found by its user or group, which all runs share

    async def open(self) -> None:
        """Make the directory."""
        if self.mounts:
            raise SandboxError("it cannot mount anything")
        self.check_programs()
        self.claim_user()
        self.home = tempfile.mkdtemp(prefix="ors-gym-sandbox-")
        if self.user is not None:
            os.chown(self.home, self.user, self.user)

    def arguments(self, command: Sequence[str]) -> list[str]:
        """The command with limits and without rights."""
        bounds = [] if self.user is None else ["--bounding-set=-all"]
        rights = [*self.dropping, *bounds, "--inh-caps=-all", "--no-new-privs", "--"]
        return [*self.joining, *rights, *self.limiting, *command]

    @property
    def finds_leftovers(self) -> str | None:
        """By what processes that left their group are found, or None."""
        return "user" if self.user is not None else "control group" if self.group.directories else None

    async def kill_leftovers(self) -> None:
        """Kill what left its process group, by its user or its control group."""
        if self.user is not None:  # as that user, everything that it may signal is its own
            reaper = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups", "--"]
            killer = await asyncio.create_subprocess_exec(
                *reaper, "/bin/sh", "-c", "kill -9 -1 2>/dev/null || :", env={}
            )
            await killer.wait()
        else:
            self.group.kill()

    async def close(self) -> None:
        """Remove the directory."""
        if self.home != WORK:
            await self.kill_leftovers()
            await asyncio.to_thread(shutil.rmtree, self.home, ignore_errors=True)
        await super().close()


def carrying(environment: Mapping[str, str], directory: str, command: Sequence[str]) -> list[str]:
    """The command behind its last step; :func:`carried` gives the variables that go with it."""
    return ["/bin/sh", "-c", CARRY, "sh", str(len(environment)), directory, *command]


def carried(environment: Mapping[str, str]) -> dict[str, str]:
    """What the confining programs get: no variable of the host's, and those of the sandbox under other names."""
    for name in environment:
        if not name.isidentifier() or not name.isascii() or name.startswith("ORS_SANDBOX"):
            raise ValueError(f"{name!r} cannot be the name of an environment variable here")
    pairs = (f"{name}={value}" for name, value in environment.items())
    return {"PATH": SYSTEM_PATH} | {f"ORS_SANDBOX_{number}": pair for number, pair in enumerate(pairs)}


USERS = range(61184, 65520)
"""User ids for sandboxes: systemd's range for users that exist only for a while."""
METHODS: tuple[type[Confinement], ...] = (Bubblewrap, Unshare, Plain)

CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN = 6, 7, 21


def found(program: str) -> str | None:
    """Where a program is, as we or the confining programs find it."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")


def may_change_user() -> bool:
    """Whether we are root and may become one of :data:`USERS`, which a user namespace need not have."""
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
