"""Verification of a sandbox's isolation from inside.

Passing a flag to a program proves nothing. A process in the sandbox prints what the kernel reports about it
(``/proc/self``: namespaces, privileges, limits), and tries what must fail: it reads and writes a file of the host,
connects to one of its ports, inspects the server's process, creates a user namespace, and leaves a process behind.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args
from uuid import uuid4

from ors_gym_server.sandbox.base import SandboxError
from ors_gym_server.sandbox.confinement import Confinement
from ors_gym_server.sandbox.scripts import SYSTEM

__all__ = [
    "LOOK",
    "USUAL",
    "Bait",
    "Guarantee",
    "Isolation",
    "IsolationError",
    "Property",
    "isolation_seen",
    "laid_out",
]

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
    "files": "no file of the host can be read or written, but for its programs under /usr, read-only",
    "network": "nothing can be reached, not even this machine's own addresses",
    "processes": "other processes can be neither looked into nor signalled",
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
USUAL: frozenset[Property] = frozenset(get_args(Property)) - {"total memory"}
"""The properties required by default: all that an unprivileged user of a common Linux can have."""

LOOK = r"""
for name in cgroup ipc mnt net pid user uts; do echo "namespace $name $(readlink /proc/self/ns/$name)"; done
while read -r key value rest; do
    case $key in NoNewPrivs:|CapEff:|CapPrm:|Seccomp:|Seccomp_filters:|Uid:) echo "status $key $value" ;; esac
done < /proc/self/status
while read -r line; do echo "limit $line"; done < /proc/self/limits
for name in /*; do echo "root ${name#/}"; done
[ -w /usr ] && echo "root usr-writable"
tr '\0' '\n' < /proc/self/environ | while IFS='=' read -r name value; do echo "variable $name"; done
while read -r name rest; do echo "interface $name"; done < /proc/net/dev
echo "disk $(stat -f -c '%S %b' .)"
exec 2>/dev/null
[ "$(cat "$1")" != bait ] || echo "reached read"
(echo written > "$1") && echo "reached write"
command -v bash >/dev/null && echo "tried network"
bash -c ": < /dev/tcp/127.0.0.1/$2" && echo "reached network"
echo "process $(tr '\0\n' '  ' < "/proc/$3/cmdline")"
kill -0 "$3" && echo "reached signal"
(: < "/proc/$3/environ") && echo "reached environ"
command -v ipcmk >/dev/null && echo "tried ipc"
made=$(ipcmk -M 1) && echo "reached ipc" && ipcrm -m "${made##* }"
unshare --user true && echo "reached user namespace"
setsid sleep "$4" </dev/null >/dev/null &
wait_for_it=0
until [ "$wait_for_it" = 50 ] || grep -q "sleep" "/proc/$!/cmdline"; do wait_for_it=$((wait_for_it + 1)); done
:
"""
"""A shell script that prints the sandbox's properties and the results of its attempts.

Its arguments are those of :class:`Bait`.
"""
LIMIT_NAMES = {"Max cpu time": "cpu", "Max file size": "fsize", "Max address space": "as", "Max processes": "nproc"}


class IsolationError(SandboxError):
    """This machine does not support the required isolation."""


@dataclass(frozen=True, slots=True)
class Guarantee:
    """One property: whether it holds, and why."""

    property: Property
    holds: bool
    how: str


@dataclass(frozen=True, slots=True)
class Isolation:
    """The isolation of a sandbox on this machine. ``print`` shows a table."""

    method: str
    guarantees: tuple[Guarantee, ...]

    def holds(self, name: Property) -> bool:
        """Whether one property holds."""
        return any(item.holds for item in self.guarantees if item.property == name)

    def missing(self, required: Collection[Property]) -> list[Property]:
        """The required properties that do not hold."""
        return [item.property for item in self.guarantees if item.property in required and not item.holds]

    def __str__(self) -> str:
        lines = [
            f"  {'yes' if item.holds else 'NO ':<4}{item.property:<14} {MEANINGS[item.property]} ({item.how})"
            for item in self.guarantees
        ]
        return "\n".join([f"isolation by {self.method}:", *lines])


@dataclass(frozen=True, slots=True)
class Bait:
    """Targets that a process in the sandbox must not reach, and how long its child sleeps."""

    file: Path
    port: int
    process: int
    seconds: str

    @property
    def arguments(self) -> list[str]:
        """The arguments of :data:`LOOK`."""
        return [str(self.file), str(self.port), str(self.process), self.seconds]

    @property
    def left_behind(self) -> bool:
        """Whether the sleeping process is still running."""
        wanted = f"sleep\0{self.seconds}\0".encode()
        entries = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())
        return any(command_line(entry) == wanted and not killed(entry) for entry in entries)


@contextmanager
def laid_out() -> Iterator[Bait]:
    """Create the bait for one inspection."""
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as server:
        Path(name).chmod(0o755)
        file = Path(name, "bait")
        file.write_text("bait")
        file.chmod(0o666)
        yield Bait(file, server.getsockname()[1], os.getpid(), f"5.{uuid4().int % 10**12:012}")


def command_line(process: Path) -> bytes:
    """The command line of a process; empty if it has ended."""
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def killed(process: Path) -> bool:
    """Whether SIGKILL is pending: the process will not run again, but a busy machine has not ended it yet."""
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return True
    pending = (int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd:", "ShdPnd:")))
    return any(signals >> (signal.SIGKILL - 1) & 1 for signals in pending)


def isolation_seen(printed: str, left_behind: bool, confinement: Confinement, passed_in: Collection[str]) -> Isolation:
    """Judge the output of :data:`LOOK`; ``passed_in`` are the names of variables passed to the sandbox."""
    seen = Seen.read(printed)
    if left_behind:
        seen.reached.add("left behind")
    return Isolation(confinement.name, tuple(judge(seen, confinement, passed_in)))


@dataclass(frozen=True, slots=True)
class Seen:
    """The findings of a process in the sandbox."""

    namespaces: dict[str, str]
    status: dict[str, str]
    limits: dict[str, int | None]
    root: set[str]
    variables: set[str]
    interfaces: set[str]
    tried: set[str]
    """Attempts that the sandbox had the programs for."""
    reached: set[str]
    """Attempts that succeeded."""
    disk_bytes: int

    @classmethod
    def read(cls, printed: str) -> Seen:
        """Parse the output; each line starts with its kind."""
        seen = cls({}, {}, {}, set(), set(), set(), set(), set(), 0)
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
                case "tried":
                    seen.tried.add(rest)
                case "reached":
                    seen.reached.add(rest)
                case "process" if rest and rest == command_line_of_ours():
                    seen.reached.add("process")
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


def command_line_of_ours() -> str:
    """This process's command line in the format of :data:`LOOK`."""
    text = command_line(Path("/proc/self")).decode(errors="replace")
    return text.replace("\0", " ").replace("\n", " ")


def own_filters() -> int:
    """The number of system-call filters of this process, which its children inherit."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Seccomp_filters:"):
            return int(line.split()[1])
    return 0


def judge(seen: Seen, confinement: Confinement, passed_in: Collection[str]) -> Iterator[Guarantee]:
    """Judge each property."""
    limits, group = confinement.limits, confinement.group
    filtered = int(seen.status.get("Seccomp_filters", "0")) > own_filters()
    landlocked = confinement.name == "sandlock" and filtered
    expected = {"dev", "etc", "proc", "tmp", "work", *SYSTEM, *(path.split("/")[1] for path in confinement.mounts)}
    if seen.reached & {"read", "write"}:
        yield Guarantee("files", False, "the host's: what its user may read or write, programs may too")
    elif seen.apart("mnt") and not seen.root - expected:
        yield Guarantee("files", True, "a root directory of its own")
    elif landlocked:
        yield Guarantee("files", True, "Landlock; names and sizes of the host's files can be seen")
    else:
        yield Guarantee("files", False, "the host's root directory")
    if limits.network:
        yield Guarantee("network", False, "asked for by SandboxLimits(network=True)")
    elif "network" in seen.reached:
        yield Guarantee("network", False, "the host's network")
    elif seen.apart("net") and seen.interfaces <= {"lo"}:
        yield Guarantee("network", True, "a network namespace with no interface but its own loopback")
    elif landlocked and "network" in seen.tried:
        yield Guarantee("network", True, "connections are refused by Landlock and seccomp, to itself as well")
    else:
        yield Guarantee("network", False, "the host's network; without bash inside, nothing could be tried")
    apart = seen.apart("pid")
    if apart:
        yield Guarantee("processes", True, "a PID namespace")
    elif landlocked and not seen.reached & {"process", "signal", "environ"}:
        yield Guarantee("processes", True, "/proc without others, signals scoped by Landlock")
    else:
        yield Guarantee("processes", False, "the host's process table")
    if "left behind" in seen.reached:
        yield Guarantee("leftovers", False, "only the process group is killed; setsid leaves it")
    else:
        by = "the PID namespace ends with the run" if apart else "all that belongs to the run is killed with it"
        yield Guarantee("leftovers", True, by)
    rights = [seen.status.get(name, "1").strip("0") for name in ("CapEff", "CapPrm")]
    powerless = not any(rights) and seen.status.get("NoNewPrivs") == "1" and seen.status.get("Uid") != "0"
    own = "" if confinement.user is None else f", the host's user {confinement.user}"
    if not powerless:
        yield Guarantee("privileges", False, "rights are left")
    elif "user namespace" in seen.reached:
        yield Guarantee("privileges", False, "user namespaces can be made, and give rights in them")
    else:
        yield Guarantee("privileges", True, f"no_new_privs, no capabilities{own}")
    if leaked := sorted(seen.variables - set(passed_in) - {"OLDPWD", "PWD", "SHLVL", "_"}):
        yield Guarantee("environment", False, f"seen: {', '.join(leaked)}")
    elif apart or "environ" not in seen.reached:
        yield Guarantee("environment", True, "only what is passed in")
    else:
        yield Guarantee("environment", False, "not passed in, but the same user's processes show theirs in /proc")
    if seen.apart("ipc"):
        yield Guarantee("ipc", True, "an IPC namespace")
    elif landlocked and "ipc" in seen.tried and "ipc" not in seen.reached:
        yield Guarantee("ipc", True, "System V's is refused")
    else:
        yield Guarantee("ipc", False, "the host's")
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
    if group.pids:
        yield Guarantee("process count", True, "control group")
    elif landlocked:
        yield Guarantee("process count", True, "counted by sandlock, threads as one with their process")
    else:
        yield Guarantee(
            "process count", counted, "RLIMIT_NPROC" if counted else "RLIMIT_NPROC counts the user's others"
        )
    holds = seen.bounded("fsize", limits.file_bytes)
    yield Guarantee("file size", holds, "RLIMIT_FSIZE" if holds else "no RLIMIT_FSIZE")
    holds = 0 < seen.disk_bytes <= limits.disk_bytes + 2**16
    yield Guarantee("disk", holds, "a memory file system of that size" if holds else "the host's own file system")
    if filtered:
        yield Guarantee("system calls", True, f"a filter that {confinement.name} loaded")
    else:
        holds = seen.status.get("Seccomp") == "2"
        by = "what the host's container set up" if holds else "none; a hole in the kernel is a way out"
        yield Guarantee("system calls", holds, by)


def user_namespace_advice() -> str:
    """The kernel setting that forbids user namespaces, if known."""
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
