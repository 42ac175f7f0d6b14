"""Isolation by the namespaces of ``bwrap``, and a filter of system calls.

The files are in a memory file system of limited size, in the mount namespace of the process that keeps them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ors_gym_server.sandbox.base import SandboxError
from ors_gym_server.sandbox.confinement import Confinement, found, has_capability
from ors_gym_server.sandbox.scripts import (
    FILTERED,
    FIRST,
    KEEP,
    NETWORK_SETTINGS,
    SETTINGS,
    STORE,
    SYSTEM,
    WORK,
)
from ors_gym_server.sandbox.system_calls import filter_program

__all__ = ["Bubblewrap"]

CAP_SYS_ADMIN = 21


class Bubblewrap(Confinement):
    """Namespaces by ``bwrap``, and a filter of system calls."""

    name = "bubblewrap"
    package = "bubblewrap 0.8 or newer"
    needs = ("bwrap", "nsenter", "setpriv", "prlimit", "unshare", "mount")
    namespaces = True
    privileged = False
    """Whether the keeper is root with its usual capabilities; it then mounts without its own user namespace."""

    async def open(self) -> None:
        """Start the process that keeps the files."""
        if problem := self.mounting_problem(STORE):
            raise SandboxError(problem)
        self.check_programs()
        try:
            program = filter_program(memory_is_counted=self.group.memory)
        except (ImportError, OSError) as error:
            raise SandboxError(f"cannot filter system calls: {error}") from None
        self.claim_user()
        self.privileged = os.geteuid() == 0 and has_capability(CAP_SYS_ADMIN)
        user_namespace = [] if self.privileged else ["--user", "--map-root-user"]
        becoming = [] if self.privileged else [*self.dropping, "--"]
        limits = self.limits
        octal = "".join(f"\\0{byte:03o}" for byte in program)
        await self.keep(
            *becoming,
            *("unshare", *user_namespace, "--mount", "--propagation=private", "--"),
            *("/bin/sh", "-c", KEEP, "sh"),
            *(str(limits.disk_bytes), str(max(1024, limits.disk_bytes // 4096))),
            *(str(self.user or "") if self.privileged else "", octal),
            *(str(source.resolve()) for source in self.mounts.values()),
        )

    async def close(self) -> None:
        """End the process that keeps the files, which discards them."""
        if self.keeper is not None:
            with suppress(ProcessLookupError):
                self.keeper.kill()
            await self.keeper.communicate()
        await super().close()

    @property
    def entering(self) -> list[str]:
        """The command that enters the namespaces of the sandbox's files as its user."""
        if self.keeper is None or self.keeper.returncode is not None:
            raise SandboxError("the process that keeps the sandbox's files has died")
        there = [f"--target={self.keeper.pid}", "--mount"]
        if self.privileged:
            return ["nsenter", *there, "--", *self.dropping, "--"]
        # Root in the keeper's user namespace is this process's own user outside.
        becoming = [] if self.user is None else [*self.dropping, "--"]
        nsenter = ["nsenter", *there, "--user", "--preserve-credentials", "--"]
        return [*becoming, *nsenter, "setpriv", "--pdeathsig=KILL", "--"]

    def arguments(self, command: Sequence[str]) -> list[str]:
        """The command in its own namespaces, by ``bwrap``."""
        filtered = ["/bin/sh", "-c", FILTERED, "sh"]
        first = ["/bin/sh", "-c", FIRST, "sh"]
        return [*self.joining, *self.entering, *filtered, *self.wrapping(), "--", *first, *self.limiting, *command]

    def wrapping(self) -> Iterator[str]:
        """The options of ``bwrap`` that define the sandbox."""
        yield from (found("bwrap") or "bwrap", "--unshare-all", "--unshare-user", "--disable-userns")
        if self.limits.network:
            yield "--share-net"
        yield from ("--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--cap-drop", "ALL")
        yield from ("--die-with-parent", "--as-pid-1", "--seccomp", "9")
        for name in SYSTEM:
            path = Path("/", name)
            if path.is_symlink():
                yield from ("--symlink", str(path.readlink()), str(path))
            elif path.is_dir():
                yield from ("--ro-bind", str(path), str(path))
        yield from ("--proc", "/proc", "--dev", "/dev", "--bind", f"{STORE}/shm", "/dev/shm", "--remount-ro", "/dev")
        yield from ("--ro-bind", "/dev/null", "/proc/keys", "--ro-bind", "/dev/null", "/proc/key-users")
        yield from ("--bind", f"{STORE}/work", WORK, "--bind", f"{STORE}/tmp", "/tmp")
        own = ("passwd", "group") if self.limits.network else ("passwd", "group", "hosts")
        for name in own:
            yield from ("--ro-bind", f"{STORE}/{name}", f"/etc/{name}")
        for name in SETTINGS + NETWORK_SETTINGS if self.limits.network else SETTINGS:
            yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")
        for number, inside in enumerate(self.mounts):
            yield from ("--ro-bind", f"{STORE}/mounts/{number}", inside)
        yield from ("--remount-ro", "/", "--chdir", WORK)
