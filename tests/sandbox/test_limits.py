"""What the local sandbox keeps in and out: its limits, its walls, and what is left of it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ors_gym_server.sandbox import (
    SandboxError,
    SandboxLimits,
)
from tests.support.processes import sleeping
from tests.support.sandboxes import LIMITS, run, sandbox_by


@pytest.mark.parametrize(
    ("command", "said"), [("echo a\0b", "NUL"), ("echo " + "a" * 2**17, "longer than 131071 bytes")]
)
def test_a_command_that_no_system_can_start_is_the_agents_business(method, command, said):
    async def conversation() -> None:
        async with sandbox_by(method) as sandbox:
            result = await sandbox.run(command)
            assert (result.exit_code, result.stdout, said in result.stderr) == (126, "", True)
            longest = await sandbox.run("echo " + "a" * (2**17 - 14) + " | wc -c")
            assert longest.stdout.strip() == str(2**17 - 13)

    run(conversation())


def test_time_is_up_and_the_output_so_far_is_kept(method):
    async def conversation():
        async with sandbox_by(method) as sandbox:
            for seconds in (0.3, 1.0, 8.0):  # on a busy machine the shell takes longer to start than that
                result = await sandbox.run("echo begun; trap '' TERM INT; sleep 60; echo over", timeout_seconds=seconds)
                assert result.timed_out
                assert result.exit_code is None
                if result.stdout:
                    break
            assert (result.stdout, result.stderr) == ("begun\n", "")

    run(conversation())


def test_long_output_is_cut_and_its_command_left_alone(method):
    async def conversation():
        async with sandbox_by(method) as sandbox:
            long = await sandbox.run("head -c 50000 /dev/zero | tr '\\0' x")
            assert (long.stdout, long.truncated, long.exit_code) == ("x" * 10_000, True, 0)

    run(conversation())


CONNECT = (
    "perl -MIO::Socket::INET -e "
    "'IO::Socket::INET->new(PeerAddr => q(127.0.0.1), PeerPort => $ARGV[0], Timeout => 2) or exit 7; print q(in)' "
)


@pytest.fixture
def listening_port():
    """A server of the host's that counts who came."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        yield server.getsockname()[1]


def test_the_network_is_available_on_request(method, listening_port):
    async def conversation():
        async with sandbox_by(method, limits=SandboxLimits(network=True)) as sandbox:
            result = await sandbox.run(f"{CONNECT} {listening_port}")
            assert result.stdout == "in", result.stderr
            assert not sandbox.isolation().holds("network")

    run(conversation())


def test_files_outside_are_not_seen(isolating_method, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("the host's")
    for directory in (tmp_path, *tmp_path.parents):
        with suppress(PermissionError):  # another's directory, and open to all then
            directory.chmod(directory.stat().st_mode | 0o055)

    async def conversation():
        async with sandbox_by(isolating_method, "files") as sandbox:
            for path in (
                secret,
                "/etc/debian_version",
                "/root",
                "/home",
                "/proc/1/root/root",
                "/work/../root",
                "/sys",
                "/var",
            ):
                result = await sandbox.run(["cat" if path in (secret, "/etc/debian_version") else "ls", str(path)])
                assert not result.ok, path
            await sandbox.run(["ln", "-s", str(secret), "link"])
            for path in (str(secret), "link", "/etc/shadow", "../../../root/.profile"):
                with pytest.raises((FileNotFoundError, SandboxError)):
                    await sandbox.download(path)

    run(conversation())


def test_nothing_outside_is_written(isolating_method, tmp_path):
    tmp_path.chmod(0o777)
    target = tmp_path / "target"
    target.write_text("before")
    target.chmod(0o666)

    async def conversation():
        async with sandbox_by(isolating_method, "files") as sandbox:
            for path in ("/usr/x", "/etc/x", "/x", "/dev/x", "/proc/sys/kernel/hostname"):
                assert not (await sandbox.run(f"echo bad > {path}")).ok, path
            await sandbox.run(["ln", "-s", str(target), "link"])
            await sandbox.run(["ln", "-s", str(tmp_path), "directory"])
            await sandbox.run("echo bad > link; echo bad > directory/new")
            await sandbox.upload(b"theirs", "link")  # replaces the link
            assert await sandbox.download("link") == b"theirs"
            with pytest.raises(SandboxError):
                await sandbox.upload(b"bad", "directory/new")

    run(conversation())
    assert target.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["target"]


def test_what_is_too_large_is_not_uploaded(method):
    async def conversation():
        async with sandbox_by(method, "file size") as sandbox:
            with pytest.raises(SandboxError, match="could not write"):
                await sandbox.upload(bytes(LIMITS.file_bytes + 1), "too-big")

    run(conversation())


def test_only_files_are_downloaded(method):
    async def conversation():
        async with sandbox_by(method) as sandbox:
            await sandbox.run("mkfifo pipe; ln -s /dev/zero endless; mkdir d")
            for path in ("pipe", "endless", "d"):
                with pytest.raises(SandboxError, match="not a regular file"):
                    await sandbox.download(path)

    run(conversation())


def test_closing_ends_what_runs(method):
    seconds = 50_000 + os.getpid() % 10_000

    async def conversation():
        async with sandbox_by(method, "leftovers") as sandbox:
            running = asyncio.create_task(sandbox.run(f"echo > begun; sleep {seconds}.5"))
            while not sleeping(f"{seconds}.5"):
                await asyncio.sleep(0.01)
            await sandbox.close()
            assert not sleeping(f"{seconds}.5")
            with pytest.raises(SandboxError, match="closed while"):
                await running

    run(conversation())


def test_a_cancelled_run_leaves_nothing(method):
    seconds = 60_000 + os.getpid() % 10_000

    async def conversation():
        async with sandbox_by(method, "leftovers") as sandbox:
            running = asyncio.create_task(sandbox.run(f"sleep {seconds}.5"))
            while not sleeping(f"{seconds}.5"):
                await asyncio.sleep(0.01)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert not sleeping(f"{seconds}.5")
            assert (await sandbox.run("echo next")).stdout == "next\n"

    run(conversation())


def test_variables_of_a_run_mean_nothing_to_the_programs_that_confine(method, tmp_path):
    """A preloaded library or a path of the agent's choosing would otherwise run outside."""

    async def conversation():
        async with sandbox_by(method) as sandbox:
            result = await sandbox.run(
                "echo ok", env={"PATH": "/nowhere", "LD_PRELOAD": "/nowhere.so", "BASH_ENV": "/x"}
            )
            assert result.stdout == "ok\n"
            if result.stderr:  # said once, by the shell that is the command itself
                assert result.stderr.count("LD_PRELOAD") == 1

    run(conversation())


def test_no_privileges_are_had_or_gained(isolating_method):
    async def conversation():
        async with sandbox_by(isolating_method, "privileges") as sandbox:
            result = await sandbox.run("grep -E '^(CapEff|CapPrm|CapAmb|NoNewPrivs)' /proc/self/status; id -u")
            assert result.stdout.split()[-1] != "0"
            assert result.stdout.count("0000000000000000") == 3
            assert "NoNewPrivs:\t1" in result.stdout
            if sandbox.isolation().holds("files"):  # a user namespace in ours would give its maker capabilities there
                assert not (await sandbox.run("unshare --user --map-root-user true")).ok

    run(conversation())


def test_two_sandboxes_share_nothing(isolating_method):
    async def conversation():
        async with sandbox_by(isolating_method, "files") as one, sandbox_by(isolating_method, "files") as other:
            await one.run("echo mine > f; echo mine > /tmp/f; echo mine > /dev/shm/f")
            assert (await other.run("cat f /tmp/f /dev/shm/f")).stdout == ""

    run(conversation())


def test_nothing_is_left_of_a_sandbox_whose_process_was_killed(method):
    """Neither the process that keeps its files, nor its directory, nor what the run had left its group with."""
    seconds = 70_000 + os.getpid() % 10_000
    script = f"""
import asyncio
from ors_gym_server.sandbox import LocalSandbox
async def main():
    async with LocalSandbox(method={method!r}, require=()) as sandbox:
        print((await sandbox.run("pwd")).stdout.strip(), flush=True)
        await sandbox.run("setsid sleep {seconds}.25 & setsid sleep {seconds}.5")
asyncio.run(main())
"""

    async def conversation():
        async with sandbox_by(method, "leftovers"):
            pass
        victim = subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            home = Path(victim.stdout.readline().strip())
            while not (sleeping(f"{seconds}.5") and sleeping(f"{seconds}.25")):
                assert victim.poll() is None
                await asyncio.sleep(0.01)
        finally:
            victim.kill()
            victim.communicate()
        while sleeping(f"{seconds}.5") or sleeping(f"{seconds}.25") or (home != Path("/work") and home.exists()):
            await asyncio.sleep(0.01)

    run(conversation())


def test_overlapping_runs_over_the_limit_are_the_sandboxs_failure():
    """What cannot be started is no answer of the agent's command."""

    async def conversation():
        limits = replace(LIMITS, processes=4, wall_seconds=30)
        async with sandbox_by("bubblewrap", "process count", limits=limits) as sandbox:
            results = await asyncio.gather(
                *(sandbox.run("sleep 1; echo over") for _ in range(8)), return_exceptions=True
            )
            refused = [each for each in results if isinstance(each, BaseException)]
            assert all(isinstance(each, SandboxError) and "was not started" in str(each) for each in refused), refused
            assert (await sandbox.run("echo next")).stdout == "next\n"

    run(conversation())


@pytest.mark.parametrize("path", ["a\0b", "a\ud800b"])
def test_an_impossible_path_has_a_clear_error(method, path):
    async def conversation():
        async with sandbox_by(method) as sandbox:
            with pytest.raises(SandboxError, match="no file can have the path"):
                await sandbox.upload(b"", path)
            with pytest.raises(FileNotFoundError, match="no file can have the path"):
                await sandbox.download(path)
            assert (await sandbox.run("true", cwd=path)).exit_code == 126
            assert (await sandbox.run(["echo", path])).exit_code == 126

    run(conversation())


def test_a_process_holds_no_more_files_open_than_allowed(method):
    async def conversation():
        async with sandbox_by(method, limits=replace(LIMITS, open_files=20)) as sandbox:
            assert (await sandbox.run("ulimit -n; ulimit -Hn")).stdout == "20\n20\n"

    run(conversation())


def test_programs_find_a_loopback_of_their_own():
    program = (
        "use IO::Socket::INET; $s = IO::Socket::INET->new(Listen => 1, LocalAddr => q(127.0.0.1)) or die;"
        "IO::Socket::INET->new(PeerAddr => q(localhost), PeerPort => $s->sockport) or die; print q(in)"
    )

    async def conversation():
        async with sandbox_by("bubblewrap") as sandbox:
            result = await sandbox.run(["perl", "-e", program])
            assert (result.stdout, result.stderr) == ("in", "")

    run(conversation())
