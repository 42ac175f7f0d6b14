"""Isolation by Landlock and seccomp, with the package ``sandlock``: without namespaces, so also in containers that
forbid them.

Each run has its own supervising process (:mod:`ors_gym_server.sandbox.supervisor`), which keeps sandlock's threads and
faults out of the server.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ors_gym_server.sandbox import supervisor
from ors_gym_server.sandbox.base import SandboxError
from ors_gym_server.sandbox.confinement import Directory
from ors_gym_server.sandbox.scripts import NETWORK_SETTINGS, SETTINGS, SYSTEM

__all__ = ["Sandlock"]

DEVICES = ("null", "zero", "full", "random", "urandom")


class Sandlock(Directory):
    """Landlock and seccomp by the package ``sandlock``; files are on the host's file system, without a total limit."""

    name = "sandlock"
    needs = ("setpriv", "prlimit")
    ends_itself = True
    packages = ""

    @property
    def counts_processes(self) -> bool:
        """Always False: sandlock counts them, and RLIMIT_NPROC would count its supervisor's threads."""
        return False

    async def open(self) -> None:
        """Create the directory."""
        package = importlib.util.find_spec("sandlock")
        if package is None or package.origin is None:
            raise SandboxError("the package sandlock is not installed: pip install 'ors-gym[sandbox]'")
        if self.mounts and any(str(source.resolve()) != inside for inside, source in self.mounts.items()):
            raise SandboxError("it cannot mount files at another path than the host's")
        self.packages = str(Path(package.origin).parent.parent)
        await super().open()

    def arguments(self, command: Sequence[str]) -> list[str]:
        """The command under a supervisor."""
        settings = SETTINGS + NETWORK_SETTINGS if self.limits.network else SETTINGS
        readable = [*(f"/{name}" for name in SYSTEM), *(f"/etc/{name}" for name in settings), "/proc"]
        readable += [f"/dev/{name}" for name in DEVICES]
        policy = {
            "fs_readable": [path for path in (*readable, *self.mounts) if Path(path).exists()],
            "fs_writable": [self.home, "/dev/null"],
            "cwd": self.home,
            "max_memory": self.limits.memory_bytes,
            "max_processes": self.limits.processes,
            "extra_deny_syscalls": ["memfd_create", "memfd_secret"],  # memory that sandlock does not count
            "net_allow": ["*:*", "udp://*:*"] if self.limits.network else [],
            "net_allow_bind": ["*"] if self.limits.network else [],
        }
        described = json.dumps({"packages": self.packages, "user": self.user, "policy": policy})
        python = [sys.executable, "-I", "-S", str(supervisor.__file__), described]
        return [*self.joining, *python, *self.limiting, *command]
