"""What programs in the local sandbox attempt, whether it comes off, and whether the sandbox's own report says so.

Each attempt belongs to a property of :meth:`LocalSandbox.isolation`. It must come to nothing where the report says that
the property holds, and must come off where it says that it does not: a report that promises too little would be no
more honest than one that promises too much. ``python -m tests.sandbox.test_attempts`` prints the table.
"""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import pytest

from ors_gym_server.sandbox import IsolationError, LocalSandbox, Property, SandboxError
from tests.support import sandboxes
from tests.support.processes import sleeping
from tests.support.sandboxes import METHODS

LIMITS = replace(sandboxes.LIMITS, wall_seconds=60.0)  # a second of processor time takes long on a busy machine


@dataclass(frozen=True)
class World:
    """What there is outside."""

    port: int
    """A server of this machine's own."""
    abstract: str
    """The abstract address of a UNIX socket that another listens on; a third is ``socket`` in the directory."""
    directory: Path
    """Open to everybody, with a file ``secret`` in it."""


@dataclass(frozen=True)
class Attempt:
    """``comes_off`` says whether it did, and what was seen."""

    name: str
    property: Property
    comes_off: Callable[[LocalSandbox, World], Awaitable[tuple[bool, str]]]


ATTEMPTS: list[Attempt] = []


def attempt(name: str, about: Property):
    def add(comes_off):
        ATTEMPTS.append(Attempt(name, about, comes_off))
        return comes_off

    return add


@attempt("burn the processor for ever", "cpu")
async def burn(sandbox, world):
    result = await sandbox.run("while :; do :; done")
    return result.timed_out, f"exit code {result.exit_code}"


@attempt("take three times the memory allowed, in one process", "memory")
async def hog(sandbox, world):
    result = await sandbox.run("perl -e 'push @a, \"$_\" x (64 << 20) for 1..6; print qq(got it)'")
    return result.stdout == "got it", f"exit code {result.exit_code}"


@attempt("take twice the memory allowed, in six processes that share it at first", "total memory")
async def hogs(sandbox, world):
    program = (
        "$n = 40 << 20; $x = chr(97) x $n; $| = 1;"
        "for (1..6) { if (!fork) { substr($x, $_ * 4096, 1) = chr(98) for 0..10239; sleep 1; print q(.); exit } }"
        "wait for 1..6"
    )
    result = await sandbox.run(["perl", "-e", program])
    return result.stdout == "......", f"{len(result.stdout)} of 6 got theirs"


@attempt("outlast the time allowed, deaf to signals", "wall time")
async def outlast(sandbox, world):
    result = await sandbox.run("trap '' TERM INT HUP; sleep 20; echo over", timeout_seconds=0.3)
    return "over" in result.stdout, "timed out" if result.timed_out else f"exit code {result.exit_code}"


@attempt("print without end", "output")
async def flood(sandbox, world):
    result = await sandbox.run("yes")
    return len(result.stdout) > LIMITS.output_bytes, f"{len(result.stdout)} bytes kept, ended"


@attempt("write a file larger than allowed", "file size")
async def large_file(sandbox, world):
    result = await sandbox.run("head -c 3000000 /dev/zero > big; stat -c %s big; rm big")
    return int(result.stdout) > LIMITS.file_bytes, f"{int(result.stdout)} bytes"


@attempt("fill the disk with small files", "disk")
async def fill(sandbox, world):
    files = "1 2 3 4 5 6 7 8"
    result = await sandbox.run(
        f"for i in {files}; do head -c 1000000 /dev/zero > $i; done; stat -c %s {files}; rm {files}"
    )
    written = sum(map(int, result.stdout.split()))
    return written > LIMITS.disk_bytes, f"{written} of 8000000 bytes"


@attempt("connect to a server on 127.0.0.1", "network")
async def connect(sandbox, world):
    program = "IO::Socket::INET->new(PeerAddr => q(127.0.0.1), PeerPort => $ARGV[0], Timeout => 2) or exit 7"
    result = await sandbox.run(["perl", "-MIO::Socket::INET", "-e", program, str(world.port)])
    return result.ok, f"exit code {result.exit_code}"


UNIX = (
    "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0) or exit 6;"
    "connect(S, pack_sockaddr_un($ARGV[1] . $ARGV[0])) or exit 7"
)


@attempt("connect to a UNIX socket by its abstract address", "network")
async def connect_abstract(sandbox, world):
    program = UNIX.replace("$ARGV[1]", "chr(0)")
    result = await sandbox.run(["perl", "-e", program, world.abstract])
    return result.ok, f"exit code {result.exit_code}"


@attempt("connect to a UNIX socket in a directory that everybody may enter", "files")
async def connect_path(sandbox, world):
    result = await sandbox.run(["perl", "-e", UNIX.replace("$ARGV[1] . ", ""), str(world.directory / "socket")])
    return result.ok, f"exit code {result.exit_code}"


@attempt("read a file outside that everybody may read", "files")
async def read_outside(sandbox, world):
    result = await sandbox.run(["cat", str(world.directory / "secret")])
    return result.stdout == "the host's", result.stdout or result.stderr.strip().rpartition(": ")[2]


@attempt("have a file outside downloaded through a link", "files")
async def download_outside(sandbox, world):
    await sandbox.run(["ln", "-sf", str(world.directory / "secret"), "link"])
    try:
        return await sandbox.download("link") == b"the host's", "downloaded"
    except (FileNotFoundError, SandboxError) as error:
        return False, type(error).__name__


@attempt("write where everybody may write", "files")
async def write_outside(sandbox, world):
    mark = world.directory / uuid4().hex
    result = await sandbox.run(["touch", str(mark)])
    return mark.exists(), "written" if mark.exists() else result.stderr.strip().rpartition(": ")[2]


@attempt("have a file outside overwritten through a linked directory", "files")
async def upload_outside(sandbox, world):
    await sandbox.run(["ln", "-sfn", str(world.directory), "directory"])
    with suppress(SandboxError):
        await sandbox.upload(b"theirs", "directory/planted")
    planted = world.directory / "planted"
    return planted.exists(), "planted" if planted.exists() else "refused"


@attempt("read the server's command line", "processes")
async def spy(sandbox, world):
    result = await sandbox.run(["cat", f"/proc/{os.getpid()}/cmdline"])
    seen = Path(sys.executable).name in result.stdout
    return seen, "ours was read" if seen else "refused"


CALLS = {"session keyring": "250, 0, -3, 0", "io_uring": "425, 1, $b = chr(0) x 200", "ptrace": "101, 0, 0, 0, 0"}
"""Numbers of x86-64, and arguments with which each comes off for every user of a kernel that has it."""


@attempt("make system calls that no program needs", "system calls")
async def calls(sandbox, world):
    tries = {name: f"syscall({arguments}) >= 0" for name, arguments in CALLS.items()}
    if platform.machine() != "x86_64":
        tries.clear()
    tries |= {f"address family {family}": f"socket(S, {family}, 2, 0)" for family in (38, 40)}
    came_off = [name for name, test in tries.items() if (await sandbox.run(["perl", "-e", f"exit !({test})"])).ok]
    return bool(came_off), ", ".join(came_off) or "refused"


@attempt("leave a daemon behind (setsid and double fork)", "leftovers")
async def daemon(sandbox, world):
    name = f"3.{uuid4().int % 10**9:09}"
    await sandbox.run(f"setsid sh -c '(sleep {name} </dev/null >/dev/null 2>&1 &) &' & sleep 0.2")
    return sleeping(name), "it lives on" if sleeping(name) else "dead with its run"


@attempt("leave a daemon behind when time is up", "leftovers")
async def late_daemon(sandbox, world):
    name = f"3.{uuid4().int % 10**9:09}"
    await sandbox.run(f"setsid sh -c '(sleep {name} </dev/null >/dev/null 2>&1 &) &' & sleep 9", timeout_seconds=0.3)
    return sleeping(name), "it lives on" if sleeping(name) else "dead with its run"


@attempt("become root, mount, enter another namespace", "privileges")
async def escalate(sandbox, world):
    tries = (
        *("chown 0:0 .", "mount -t tmpfs tmpfs /tmp", "nsenter -t 1 -m true"),
        "unshare --user --map-root-user mount -t tmpfs tmpfs /tmp",
        "unshare --user true",
    )
    came_off = [command for command in tries if (await sandbox.run(command)).ok]
    return bool(came_off), ", ".join(came_off) or "refused"


@attempt("find our API key in the environment", "environment")
async def steal(sandbox, world):
    result = await sandbox.run("(env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n') | grep ORS_GYM")
    found = "hush-hush" in result.stdout
    return found, "found" if found else "not there"


@attempt("make shared memory that the host sees", "ipc")
async def share(sandbox, world):
    result = await sandbox.run("made=$(ipcmk -M 1) && echo ${made##* }")
    number = result.stdout.strip()
    seen = bool(number) and subprocess.run(["ipcrm", "-m", number], capture_output=True, check=False).returncode == 0
    return seen, "the host's" if seen else "its own" if number else "refused"


# The last, since without a PID namespace its zombies count as processes until the machine's first process buries them.
@attempt("fork bomb (bounded at 60)", "process count")
async def bomb(sandbox, world):
    child = "if (!$p) { sleep 3; exit }"
    program = f"while ($n < 60) {{ $p = fork; last if !defined $p; {child} $n++ }} print $n"
    result = await sandbox.run(["perl", "-e", program])
    return result.stdout == "60", f"{result.stdout} children of {LIMITS.processes} processes allowed"


@contextmanager
def world():
    """A server, a directory that is open to everybody, a process with a key in its environment."""
    abstract = f"ors-gym-attempt-{uuid4().hex}"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        tempfile.TemporaryDirectory() as directory,
        socket.socket(socket.AF_UNIX) as nameless,
        socket.socket(socket.AF_UNIX) as named,
    ):
        place = Path(directory)
        place.chmod(0o777)
        nameless.bind(f"\0{abstract}")
        named.bind(str(place / "socket"))
        (place / "socket").chmod(0o777)
        nameless.listen()
        named.listen()
        (place / "secret").write_text("the host's")
        (place / "secret").chmod(0o644)
        # What the kernel shows of a process's variables are those that it was started with.
        neighbour = subprocess.Popen(["sleep", "300"], env={**os.environ, "ORS_GYM_TEST_KEY": "hush-hush"})
        os.environ["ORS_GYM_TEST_KEY"] = "hush-hush"
        try:
            yield World(server.getsockname()[1], abstract, place)
        finally:
            del os.environ["ORS_GYM_TEST_KEY"]
            neighbour.kill()
            neighbour.wait()


async def outcomes(method: str) -> dict[str, tuple[bool, bool, str]] | None:
    """For each attempt: whether it should be stopped, whether it came off, and what was seen. None: no such method."""
    sandbox = LocalSandbox(LIMITS, method=method, require=())  # type: ignore[arg-type]
    try:
        await sandbox.start()
    except IsolationError:
        return None
    with world() as outside:
        try:
            return {
                item.name: (sandbox.isolation().holds(item.property), *await item.comes_off(sandbox, outside))
                for item in ATTEMPTS
            }
        finally:
            await sandbox.close()


@pytest.mark.parametrize("method", METHODS)
def test_attempts_succeed_exactly_where_the_report_says(method):
    found = asyncio.run(outcomes(method))
    if found is None:
        pytest.skip(f"this machine has no {method}")
    wrong = [
        f"{name}: {'came off' if came_off else 'was stopped'} ({seen}), but the report says otherwise"
        for name, (holds, came_off, seen) in found.items()
        if holds == came_off
    ]
    assert not wrong, "\n".join(wrong)


def main() -> None:
    """Print what each method stops, as a table."""
    columns = {method: found for method in METHODS if (found := asyncio.run(outcomes(method))) is not None}
    print("| attempt |", *(f"{method} |" for method in columns))
    print("|---|", *("---|" for _ in columns), sep="")
    for item in ATTEMPTS:
        cells = [columns[method][item.name] for method in columns]
        print(f"| {item.name} |", *(f"{'**comes off**' if off else 'stopped'}: {seen} |" for _, off, seen in cells))


if __name__ == "__main__":
    main()
