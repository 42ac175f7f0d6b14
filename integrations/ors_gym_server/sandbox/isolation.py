"""What holds in a sandbox, found out by looking from inside.

A flag that was passed to a program is no proof. A process in the sandbox prints what the kernel tells it of itself
(``/proc/self``: namespaces, rights, limits) and of its surroundings, and that is compared with ours.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from ors_gym_server.sandbox.base import SandboxError
from ors_gym_server.sandbox.confinement import Confinement, Plain
from ors_gym_server.sandbox.scripts import SYSTEM

__all__ = ["LOOK", "USUAL", "Guarantee", "Isolation", "IsolationError", "Property", "isolation_seen"]

Property: TypeAlias = Literal[
    "files",
    "network",
    "processes",
    "leftovers",
    "privileges",
    "environment",
    "ipc",
    "wall time",
    "output",
    "cpu",
    "memory",
    "total memory",
    "process count",
    "file size",
    "disk",
    "system calls",
]

MEANINGS: dict[Property, str] = {
    "files": "files of the host cannot be seen, but for its programs under /usr, read-only",
    "network": "nothing can be reached, not even this machine's own addresses",
    "processes": "other processes can be neither seen nor signalled",
    "leftovers": "no process outlives the run that started it",
    "privileges": "not root, no capabilities, and no way to gain any",
    "environment": "no environment variable of ours, an API key say, can be read",
    "ipc": "no shared memory or message queue of the host's",
    "wall time": "a run ends in time",
    "output": "output is bounded",
    "cpu": "the processor time of each process is bounded",
    "memory": "the memory of each process is bounded",
    "total memory": "the memory of all processes and files together is bounded",
    "process count": "the number of processes is bounded",
    "file size": "the size of each file is bounded",
    "disk": "the size of all files together is bounded",
    "system calls": "the kernel's system calls are filtered",
}
USUAL: frozenset[Property] = frozenset(get_args(Property)) - {"total memory", "system calls"}
"""What is required unless said otherwise: all that an unprivileged user of a usual Linux can have."""

LOOK = r"""
for name in cgroup ipc mnt net pid user uts; do echo "namespace $name $(readlink /proc/self/ns/$name)"; done
while read -r key value rest; do
    case $key in NoNewPrivs:|CapEff:|CapPrm:|Seccomp:|Uid:) echo "status $key $value" ;; esac
done < /proc/self/status
while read -r line; do echo "limit $line"; done < /proc/self/limits
for name in /*; do echo "root ${name#/}"; done
[ -w /usr ] && echo "root usr-writable"
tr '\0' '\n' < /proc/self/environ | while IFS='=' read -r name value; do echo "variable $name"; done
while read -r name rest; do echo "interface $name"; done < /proc/net/dev
echo "disk $(stat -f -c '%S %b' .)"
"""
"""A shell script that prints what a process finds in the sandbox."""
LIMIT_NAMES = {"Max cpu time": "cpu", "Max file size": "fsize", "Max address space": "as", "Max processes": "nproc"}


class IsolationError(SandboxError):
    """This machine cannot hold what was required of a sandbox."""


@dataclass(frozen=True, slots=True)
class Guarantee:
    """One property: whether it holds, and by what, or why not."""

    property: Property
    holds: bool
    how: str


@dataclass(frozen=True, slots=True)
class Isolation:
    """What holds in a sandbox on this machine. ``print`` shows a table."""

    method: str
    guarantees: tuple[Guarantee, ...]

    def holds(self, name: Property) -> bool:
        """Whether one property holds."""
        return any(item.holds for item in self.guarantees if item.property == name)

    def missing(self, required: Collection[Property]) -> list[Property]:
        """Which of the required properties do not hold."""
        return [item.property for item in self.guarantees if item.property in required and not item.holds]

    def __str__(self) -> str:
        lines = [
            f"  {'yes' if item.holds else 'NO ':<4}{item.property:<14} {MEANINGS[item.property]} ({item.how})"
            for item in self.guarantees
        ]
        return "\n".join([f"isolation by {self.method}:", *lines])


def isolation_seen(printed: str, confinement: Confinement, passed_in: Collection[str]) -> Isolation:
    """Judge what :data:`LOOK` printed in a sandbox; ``passed_in`` are the names of the variables passed in."""
    return Isolation(confinement.name, tuple(judge(Seen.read(printed), confinement, passed_in)))


@dataclass(frozen=True, slots=True)
class Seen:
    """What a process found in the sandbox."""

    namespaces: dict[str, str]
    status: dict[str, str]
    limits: dict[str, int | None]
    root: set[str]
    variables: set[str]
    interfaces: set[str]
    disk_bytes: int

    @classmethod
    def read(cls, printed: str) -> Seen:
        """Sort the lines by their first word."""
        seen = cls({}, {}, {}, set(), set(), set(), 0)
        disk_bytes = 0
        for line in printed.splitlines():
            kind, _, rest = line.partition(" ")
            words = rest.split()
            match kind:
                case "namespace" if len(words) == 2:
                    seen.namespaces[words[0]] = words[1]
                case "status":
                    seen.status[words[0].rstrip(":")] = words[1]
                case "limit":
                    for title, name in LIMIT_NAMES.items():
                        if rest.startswith(title):
                            soft = rest.removeprefix(title).split()[0]
                            seen.limits[name] = None if soft == "unlimited" else int(soft)
                case "root":
                    seen.root.add(rest)
                case "variable" if rest:
                    seen.variables.add(rest)
                case "interface" if rest.endswith(":"):
                    seen.interfaces.add(rest.rstrip(":"))
                case "disk" if len(words) == 2:
                    disk_bytes = int(words[0]) * int(words[1])
                case _:
                    pass
        return replace(seen, disk_bytes=disk_bytes)

    def apart(self, namespace: str) -> bool:
        """Whether the sandbox has its own namespace."""
        there = self.namespaces.get(namespace)
        return bool(there) and there != os.readlink(f"/proc/self/ns/{namespace}")

    def bounded(self, name: str, bound: int) -> bool:
        """Whether a resource limit is at most ``bound``."""
        limit = self.limits.get(name)
        return limit is not None and limit <= bound


def judge(seen: Seen, confinement: Confinement, passed_in: Collection[str]) -> Iterator[Guarantee]:
    """Each property in turn."""
    limits, group = confinement.limits, confinement.group
    expected = {"dev", "etc", "proc", "tmp", "work", *SYSTEM, *(path.split("/")[1] for path in confinement.mounts)}
    strange = sorted(seen.root - expected)
    if seen.apart("mnt") and not strange:
        yield Guarantee("files", True, "a root directory of its own")
    else:
        yield Guarantee("files", False, "the host's root directory: what its user may read or write, programs may too")
    if limits.network:
        yield Guarantee("network", False, "asked for by SandboxLimits(network=True)")
    elif seen.apart("net") and seen.interfaces <= {"lo"}:
        yield Guarantee("network", True, "a network namespace with no interface but its own loopback")
    else:
        yield Guarantee("network", False, "the host's network")
    apart = seen.apart("pid")
    yield Guarantee("processes", apart, "a PID namespace" if apart else "the host's process table")
    if apart:
        yield Guarantee("leftovers", True, "the PID namespace ends with the run")
    elif isinstance(confinement, Plain) and confinement.finds_leftovers:
        yield Guarantee("leftovers", True, f"killed by the sandbox's own {confinement.finds_leftovers}")
    else:
        yield Guarantee("leftovers", False, "only the process group is killed; setsid leaves it")
    rights = [seen.status.get(name, "1").strip("0") for name in ("CapEff", "CapPrm")]
    powerless = not any(rights) and seen.status.get("NoNewPrivs") == "1" and seen.status.get("Uid") != "0"
    own = "" if confinement.user is None else f", the host's user {confinement.user}"
    yield Guarantee("privileges", powerless, f"no_new_privs, no capabilities{own}" if powerless else "rights are left")
    leaked = sorted(seen.variables - set(passed_in) - {"OLDPWD", "PWD", "SHLVL", "_"})
    if leaked:
        yield Guarantee("environment", False, f"seen: {', '.join(leaked)}")
    elif seen.apart("pid") or confinement.user is not None:
        yield Guarantee("environment", True, "only what is passed in")
    else:
        yield Guarantee("environment", False, "not passed in, but the same user's processes show theirs in /proc")
    apart = seen.apart("ipc")
    yield Guarantee("ipc", apart, "an IPC namespace" if apart else "the host's")
    yield Guarantee("wall time", True, "killed from outside")
    yield Guarantee("output", True, "dropped beyond the limit")
    holds = seen.bounded("cpu", limits.cpu_seconds)
    yield Guarantee("cpu", holds, "RLIMIT_CPU; all together: wall time by cores" if holds else "no RLIMIT_CPU")
    per_process = seen.bounded("as", limits.memory_bytes)
    by = "control group" if group.memory else "RLIMIT_AS" if per_process else "no control group, no RLIMIT_AS"
    yield Guarantee("memory", group.memory or per_process, by)
    yield Guarantee(
        "total memory", group.memory, "control group" if group.memory else "no control group can be made here"
    )
    counted = seen.bounded("nproc", limits.processes) and (seen.apart("user") or confinement.user is not None)
    by = "control group" if group.pids else "RLIMIT_NPROC" if counted else "RLIMIT_NPROC would count the user's others"
    yield Guarantee("process count", group.pids or counted, by)
    holds = seen.bounded("fsize", limits.file_bytes)
    yield Guarantee("file size", holds, "RLIMIT_FSIZE" if holds else "no RLIMIT_FSIZE")
    holds = 0 < seen.disk_bytes <= limits.disk_bytes + 2**16
    yield Guarantee("disk", holds, "a memory file system of that size" if holds else "the host's own file system")
    holds = seen.status.get("Seccomp") == "2"
    by = "by what the host's container set up" if holds else "the kernel is shared; a hole in it is a way out"
    yield Guarantee("system calls", holds, by)


def user_namespace_advice() -> str:
    """What stands in the way of user namespaces, as far as the kernel says."""
    for path, value in (
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ):
        file = Path(path)
        if file.exists() and file.read_text().strip() == value:
            setting = path.removeprefix("/proc/sys/").replace("/", ".")
            return f"allow processes to make user namespaces ({setting} is {value} here)"
    return (
        "a container must be allowed to make them and to mount /proc (docker run --security-opt seccomp=unconfined "
        "--security-opt systempaths=unconfined; podman run --security-opt unmask=ALL)"
    )
