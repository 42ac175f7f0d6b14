"""Control groups, version 2: limits on all the processes of a sandbox together, where the host delegates them.

A group is created below this process's own, or next to it if the own group may not have children with controllers ("no
internal processes"). Root may create one, and so may a service with ``Delegate=yes``; containers usually may not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from ors_gym_server.sandbox.base import SandboxLimits

__all__ = ["ControlGroup"]

CONTROLLERS = frozenset({"memory", "pids"})
PREFIX = "ors-gym-"


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """The directory that limits one sandbox; None if there is none."""

    directory: Path | None = None
    memory: bool = False
    """Whether memory is limited, for all processes and files together."""
    pids: bool = False
    """Whether the number of processes is limited."""

    @classmethod
    def create(cls, limits: SandboxLimits) -> ControlGroup:
        """A group for one sandbox, with as many of the limits as the host allows."""
        for place in places():
            if (made := make(place, f"{PREFIX}{os.getpid()}-{uuid4().hex[:8]}", limits)) is not None:
                return made
        return cls()

    @property
    def joining(self) -> str | None:
        """The file to which a process writes its id to join."""
        return None if self.directory is None else str(self.directory / "cgroup.procs")

    def kill(self) -> None:
        """Kill every process in the group."""
        if self.directory is not None:
            with suppress(OSError):
                (self.directory / "cgroup.kill").write_text("1")

    def remove(self) -> None:
        """Remove the group; a group whose last processes are still exiting is removed by a later attempt."""
        if self.directory is not None:
            with suppress(OSError):
                self.directory.rmdir()

    @property
    def gone(self) -> bool:
        """Whether the group was removed."""
        return self.directory is None or not self.directory.exists()


def make(place: Path, name: str, limits: SandboxLimits) -> ControlGroup | None:
    """A group below ``place`` with a limit for each controller delegated there; None without any."""
    try:
        controllers = CONTROLLERS & set((place / "cgroup.subtree_control").read_text().split())
    except OSError:
        return None
    if not controllers:
        return None
    remove_abandoned(place)
    directory = place / name
    try:
        directory.mkdir()
    except OSError:
        return None
    try:
        for file, value in settings(controllers, limits):
            (directory / file).write_text(str(value))
    except OSError:
        with suppress(OSError):
            directory.rmdir()
        return None
    with suppress(OSError):  # where swap is not counted, there is nothing to set
        (directory / "memory.swap.max").write_text("0")
    return ControlGroup(directory, "memory" in controllers, "pids" in controllers)


def settings(controllers: frozenset[str], limits: SandboxLimits) -> Iterator[tuple[str, int]]:
    """The files and values of the limits."""
    if "memory" in controllers:
        yield "memory.max", limits.memory_bytes
    if "pids" in controllers:
        yield "pids.max", limits.processes


def remove_abandoned(place: Path) -> None:
    """Remove the empty groups of processes that were killed before removing them."""
    for directory in place.glob(f"{PREFIX}*"):
        owner = directory.name.removeprefix(PREFIX).partition("-")[0]
        if not Path("/proc", owner).exists():
            with suppress(OSError):
                directory.rmdir()


def places() -> Iterator[Path]:
    """This process's group and its parent, from ``/proc/self/mountinfo`` and ``/proc/self/cgroup``."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    ours = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
    for line in mounts:
        left, _, right = line.partition(" - ")
        mounted_part, root = left.split(" ")[3:5]
        if ours and right.startswith("cgroup2 "):
            own = Path(root, os.path.relpath(ours[0], mounted_part))
            yield own
            if own != Path(root):
                yield own.parent
            return
