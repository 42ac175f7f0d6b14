"""The local sandbox as its users and the programs in it find it; ``test_attempts`` has what it must stop.

A test that needs a property says so by ``needs`` and is skipped where that property does not hold on this machine by
that method, as :meth:`LocalSandbox.isolation` reports it; that the report tells the truth is what the test then shows.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel

from ors_gym import ORSClient
from ors_gym.http.asgi import ASGITransport
from ors_gym.types import TextBlock, ToolOutput
from ors_gym_server import Environment, create_app, tool
from ors_gym_server.sandbox import (
    IsolationError,
    LocalSandbox,
    Sandbox,
    SandboxError,
    SandboxLimits,
    data_path,
)
from tests.support.processes import sleeping

METHODS = ("bubblewrap", "sandlock", "plain")
LIMITS = SandboxLimits(
    wall_seconds=8.0,
    cpu_seconds=1,
    memory_bytes=128 * 2**20,
    processes=24,
    output_bytes=10_000,
    file_bytes=2**20,
    disk_bytes=4 * 2**20,
)


def run(conversation: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(conversation, 60))


@asynccontextmanager
async def sandbox_by(
    method: str, *needed: str, limits: SandboxLimits = LIMITS, mounts: dict[str, Path] | None = None
) -> AsyncIterator[LocalSandbox]:
    """A sandbox by this method; skips the test where the method, or a property needed, is not to be had here."""
    sandbox = LocalSandbox(limits, method=method, require=(), mounts=mounts)  # type: ignore[arg-type]
    try:
        await sandbox.start()
    except IsolationError as error:
        pytest.skip(f"no isolation by {method} on this machine: {error}")
    try:
        for name in needed:
            if not sandbox.isolation().holds(name):  # type: ignore[arg-type]
                pytest.skip(f"{method} does not hold {name!r} on this machine, and says so")
        yield sandbox
    finally:
        await sandbox.close()


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[method for method in METHODS if method != "plain"])
def isolating_method(request: pytest.FixtureRequest) -> str:
    """A method that hides files and processes; ``plain`` does not, and says so."""
    return request.param


# --- what it is for


def test_a_command_runs_with_its_input_output_and_exit_code(method):
    async def conversation():
        async with sandbox_by(method) as sandbox:
            result = await sandbox.run("cat; echo oops >&2; exit 3", stdin="hello\n")
            assert (result.exit_code, result.stdout, result.stderr) == (3, "hello\n", "oops\n")
            assert not result.timed_out
            assert not result.truncated
            assert (await sandbox.run(["echo", "a  b", "$HOME"])).stdout == "a  b $HOME\n"

    run(conversation())


def test_variables_and_directory_are_the_callers_choice(method):
    async def conversation():
        async with sandbox_by(method) as sandbox:
            await sandbox.upload(b"", "deep/er/file")
            result = await sandbox.run('echo "$GREETING"; ls', env={"GREETING": 'it\'s "$HOME"\n'}, cwd="deep/er")
            assert result.stdout == 'it\'s "$HOME"\n\nfile\n'
            missing = await sandbox.run("true", cwd="nowhere")
            assert missing.exit_code == 125
            with pytest.raises(ValueError, match="environment variable"):
                await sandbox.run("true", env={"A B": "1"})

    run(conversation())


def test_files_last_from_run_to_run_and_go_with_the_sandbox(method):
    async def conversation():
        async with sandbox_by(method) as sandbox:
            await sandbox.run("mkdir d && printf 'a\\0b' > d/f")
            assert await sandbox.download("d/f") == b"a\0b"
            await sandbox.upload(b"\xff\xfe", "d/f")
            assert await sandbox.download("d/f") == b"\xff\xfe"
            home = (await sandbox.run("pwd")).stdout.strip()
        if home != "/work":  # a directory of the host's
            assert not Path(home).exists()
        with pytest.raises(SandboxError, match="closed"):
            await sandbox.run("true")

    run(conversation())


def test_a_directory_is_uploaded_with_links_as_links(isolating_method, tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "code.sh").write_text("echo run")
    (tmp_path / "secret").write_text("the host's")
    (tmp_path / "src" / "link").symlink_to(tmp_path / "secret")

    async def conversation():
        async with sandbox_by(isolating_method, "files") as sandbox:
            await sandbox.upload(tmp_path / "src", "project")
            assert (await sandbox.run("sh project/code.sh; cat project/link")).stdout == "run\n"
            with pytest.raises(FileNotFoundError):
                await sandbox.download("project/link")
            copied = await sandbox.download("project/code.sh", tmp_path / "back")
            assert copied.read_text() == "echo run"

    run(conversation())


def test_what_bubblewrap_mounts_is_read_and_not_written(tmp_path, monkeypatch):
    (tmp_path / "tasks.txt").write_text("one\ntwo\n")
    tmp_path.chmod(0o777)
    monkeypatch.setenv("ORWD_DATA", str(tmp_path))

    async def conversation():
        async with sandbox_by("bubblewrap", mounts={"/orwd_data": data_path()}) as sandbox:
            result = await sandbox.run("cd /orwd_data; cat tasks.txt; echo three > new; rm tasks.txt")
            assert result.stdout == "one\ntwo\n"
            assert not result.ok

    run(conversation())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tasks.txt"]


def test_data_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("ORWD_DATA", str(tmp_path))
    assert data_path() == tmp_path
    with pytest.raises(FileNotFoundError, match="ORWD_DATA"):
        data_path("train.jsonl")


@pytest.mark.parametrize("part", ["../secret", "/etc/passwd", "..", "a/../../secret", "link", "link/below", "a\0b"])
def test_data_stays_below_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "data/link").symlink_to(tmp_path / "secret")
    monkeypatch.setenv("ORWD_DATA", str(tmp_path / "data"))
    with pytest.raises(ValueError, match=r"not below the folder|holds a NUL"):
        data_path(part)


# --- limits


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


def test_the_network_is_there_where_it_was_asked_for(method, listening_port):
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


def test_what_is_no_file_is_not_downloaded(method):
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
def test_a_path_that_no_file_can_have_is_said_in_words(method, path):
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


# --- in an environment


class Bash(BaseModel):
    command: str


class Coding(Environment):
    """The environment of the package's own description."""

    def __init__(self, task_spec=None, secrets=None):
        super().__init__(task_spec, secrets)
        self.sandbox = LocalSandbox(SandboxLimits(wall_seconds=10), require=())

    @classmethod
    def list_splits(cls):
        return ["train"]

    @classmethod
    def list_tasks(cls, split):
        return [{"answer": 42}]

    def get_prompt(self):
        return "Write 42 to the file answer."

    async def setup(self):
        await self.sandbox.start()

    async def teardown(self):
        await self.sandbox.close()

    @tool
    async def bash(self, params: Bash) -> ToolOutput:
        """Run a command."""
        result = await self.sandbox.run(params.command)
        return ToolOutput((TextBlock(result.stdout + result.stderr),))

    @tool
    async def submit(self) -> ToolOutput:
        """Have the answer checked."""
        answer = await self.sandbox.download("answer")
        right = answer.strip() == b"42"
        return ToolOutput((TextBlock("right" if right else "wrong"),), reward=float(right), finished=True)


def test_an_environment_owns_a_sandbox_from_setup_to_teardown(monkeypatch):
    closed: list[LocalSandbox] = []

    async def close(self):
        await discard(self)
        closed.append(self)

    discard = LocalSandbox.close
    monkeypatch.setattr(LocalSandbox, "close", close)

    async def conversation():
        app = create_app([Coding])
        async with ORSClient("http://app", transport=ASGITransport(app)) as client:
            async with client.session("coding", split="train", index=0) as session:
                output = await session.call_tool("bash", {"command": "echo $((6 * 7)) | tee answer"})
                assert output.text == "42\n"
                output = await session.call_tool("submit", {})
                assert (output.reward, output.finished) == (1.0, True)
        await app.aclose()
        (sandbox,) = closed
        with pytest.raises(SandboxError, match="closed"):
            await sandbox.run("true")

    run(conversation())


# --- honesty


def test_a_property_that_cannot_be_had_is_refused_with_what_to_do(monkeypatch):
    async def conversation():
        with pytest.raises(IsolationError, match=r"(?s)plain: works, but does not hold files\n.*accept less"):
            await LocalSandbox(method="plain", require=["files", "output"]).start()
        monkeypatch.setenv("PATH", "/nowhere")
        monkeypatch.setattr("ors_gym_server.sandbox.confinement.SYSTEM_PATH", "/nowhere")
        with pytest.raises(IsolationError, match=r"not installed: bwrap.*install bubblewrap"):
            await LocalSandbox(method="bubblewrap", require=()).start()

    run(conversation())


def test_filtered_system_calls_are_not_claimed():
    async def conversation():
        if "Seccomp:\t2" in Path("/proc/self/status").read_text():
            pytest.skip("this process's own system calls are filtered, and so are the sandbox's")
        with pytest.raises(IsolationError, match="system calls"):
            await LocalSandbox(method="plain", require=["system calls"]).start()

    run(conversation())


def test_the_report_reads_as_a_table():
    async def conversation():
        async with LocalSandbox(method="plain", require=()) as sandbox:
            isolation = sandbox.isolation()
            assert str(isolation).startswith(f"isolation by {isolation.method}:\n  ")
            assert "NO  system calls" in str(isolation) or isolation.holds("system calls")
            assert isolation.missing(["wall time", "output"]) == []

    run(conversation())


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="memory_bytes"):
        SandboxLimits(memory_bytes=0)
    with pytest.raises(ValueError, match="no such property"):
        LocalSandbox(require=["safety"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no such method"):
        LocalSandbox(method="docker")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout_seconds"):
        SandboxLimits().run_seconds(-1)
    assert SandboxLimits(wall_seconds=5).run_seconds(60) == 5

    async def conversation():
        sandbox = LocalSandbox()
        assert isinstance(sandbox, Sandbox)
        with pytest.raises(SandboxError, match="not started"):
            await sandbox.run("true")
        with pytest.raises(SandboxError, match="not started"):
            sandbox.isolation()
        await sandbox.close()

    run(conversation())


def test_another_system_than_linux_is_told_what_to_use_instead(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(IsolationError, match=r"needs Linux, and this is darwin: .*container, or use E2BSandbox"):
        asyncio.run(LocalSandbox().start())
