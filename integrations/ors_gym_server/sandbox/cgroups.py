"""Control groups: limits on all the processes of a sandbox together, where the host lets us make one.

Version 2 and version 1 hierarchies are both still met. A group is made below our own, or beside it where our own may
not have children with controllers (version 2, "no internal processes"); root may, containers mostly may not.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from ors_gym_server.sandbox.base import SandboxLimits

__all__ = ["ControlGroup"]

CONTROLLERS = ("memory", "pids")
PREFIX = "ors-gym-"


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """The directories, one per hierarchy, that together limit one sandbox; none where nothing can be had."""

    directories: tuple[Path, ...] = ()
    memory: bool = False
    """Memory is limited, of all processes and files together."""
    pids: bool = False
    """The number of processes is limited."""

    @classmethod
    def create(cls, limits: SandboxLimits) -> ControlGroup:
        """A group for one sandbox, with as many of the limits as this host lets us set."""
        name = f"{PREFIX}{os.getpid()}-{uuid4().hex[:8]}"
        directories: list[Path] = []
        held: set[str] = set()
        for hierarchy in hierarchies():
            wanted = [item for item in CONTROLLERS if item in hierarchy.controllers and item not in held]
            if wanted and (made := hierarchy.make(name, wanted, limits)) is not None:
                directories.append(made)
                held.update(wanted)
        return cls(tuple(directories), "memory" in held, "pids" in held)

    @property
    def joining(self) -> tuple[str, ...]:
        """The files that a process writes its id to in order to join."""
        return tuple(str(directory / "cgroup.procs") for directory in self.directories)

    def kill(self) -> None:
        """Kill every process in the group."""
        for directory in self.directories:
            try:
                (directory / "cgroup.kill").write_text("1")
            except OSError:  # version 1, or a kernel before 5.14: until none is left that could have forked meanwhile
                for _ in range(100):
                    if not (left := processes(directory)):
                        break
                    for process in left:
                        with suppress(ProcessLookupError, PermissionError):
                            os.kill(process, signal.SIGKILL)

    def remove(self) -> None:
        """Remove the group; one whose last processes are still dying is left to the next attempt."""
        for directory in self.directories:
            with suppress(OSError):
                directory.rmdir()

    @property
    def gone(self) -> bool:
        """Whether all of it was removed."""
        return not any(directory.exists() for directory in self.directories)


def processes(directory: Path) -> list[int]:
    """The processes in one control group."""
    try:
        return [int(line) for line in (directory / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def remove_abandoned(place: Path) -> None:
    """Remove the empty groups of processes that were killed before they could."""
    for directory in place.glob(f"{PREFIX}*"):
        owner = directory.name.removeprefix(PREFIX).partition("-")[0]
        if not Path("/proc", owner).exists():
            with suppress(OSError):
                directory.rmdir()


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted tree of control groups, and our own place in it."""

    own: Path
    root: Path
    version: int
    controllers: frozenset[str]

    def make(self, name: str, wanted: list[str], limits: SandboxLimits) -> Path | None:
        """A group with limits for all that is ``wanted``, or None where the host does not let us."""
        places = [self.own] if self.version == 1 or self.own == self.root else [self.own, self.own.parent]
        for place in places:
            remove_abandoned(place)
            directory = place / name
            try:
                directory.mkdir()
            except OSError:
                continue
            try:
                for file, value in self.settings(wanted, limits):
                    (directory / file).write_text(str(value))
            except OSError:
                directory.rmdir()
                continue
            with suppress(OSError):  # where swap is not counted, there is nothing to set
                swap = "memory.swap.max" if self.version == 2 else "memory.memsw.limit_in_bytes"
                (directory / swap).write_text("0" if self.version == 2 else str(limits.memory_bytes))
            return directory
        return None

    def settings(self, wanted: list[str], limits: SandboxLimits) -> Iterator[tuple[str, int]]:
        """Which files hold the limits."""
        if "memory" in wanted:
            yield "memory.max" if self.version == 2 else "memory.limit_in_bytes", limits.memory_bytes
        if "pids" in wanted:
            yield "pids.max", limits.processes


def hierarchies() -> Iterator[Hierarchy]:
    """What is mounted, from ``/proc/self/mountinfo``, and where we are in it, from ``/proc/self/cgroup``."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        places = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    except OSError:
        return
    for line in mounts:
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        mounted_part, root = left.split(" ")[3:5]
        if kind == "cgroup2" and "" in places:
            own, version = Path(root, os.path.relpath(places[""], mounted_part)), 2
            try:
                controllers = frozenset((own / "cgroup.controllers").read_text().split())
            except OSError:
                continue
            yield Hierarchy(own, Path(root), version, controllers)
        elif kind == "cgroup":
            for named, place in places.items():
                if named and set(named.split(",")) <= set(options.split(",")):
                    own = Path(root, os.path.relpath(place, mounted_part))
                    yield Hierarchy(own, Path(root), 1, frozenset(named.split(",")))
