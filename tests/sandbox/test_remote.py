"""What sandboxes at a service have in common, tried against a service that is a directory of this machine."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path

import pytest

from ors_gym_server.sandbox import DaytonaSandbox, E2BSandbox, ModalSandbox, SandboxError, SandboxLimits
from ors_gym_server.sandbox.remote import RemoteSandbox, read_result


def run(conversation: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(conversation, 60))


class Nearby(RemoteSandbox):
    """The service: a real shell, in a directory of this machine."""

    async def _create(self):
        self.place = tempfile.TemporaryDirectory()

    async def _destroy(self):
        self.place.cleanup()

    async def _shell(self, arguments, seconds):
        process = await asyncio.create_subprocess_exec(
            *arguments, cwd=self.place.name, stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
        )
        printed, _ = await asyncio.wait_for(process.communicate(), seconds)
        assert process.returncode == 0
        return printed.decode()

    async def _put(self, path, content):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content)

    async def _get(self, path):
        return Path(path).read_bytes()


def test_a_command_runs_far_away_as_it_would_here():
    async def conversation():
        async with Nearby() as sandbox:
            result = await sandbox.run("cat; echo oops >&2; exit 3", stdin="hello\n")
            assert (result.exit_code, result.stdout, result.stderr) == (3, "hello\n", "oops\n")
            assert (await sandbox.run(["echo", "a  'b", "$HOME"])).stdout == "a  'b $HOME\n"
            assert (await sandbox.run("printf '\\377\\0é'")).stdout == "\ufffd\0é"
            await sandbox.upload(b"x", "deep/er/file")
            result = await sandbox.run('echo "$GREETING"; ls', env={"GREETING": 'it\'s "$HOME"'}, cwd="deep/er")
            assert result.stdout == 'it\'s "$HOME"\nfile\n'
            assert (await sandbox.run("true", cwd="nowhere")).exit_code == 125
            assert (await sandbox.run("kill -9 $$")).exit_code == 137
            assert sorted(path.name for path in Path(sandbox.place.name).iterdir()) == ["deep"]

    run(conversation())


def test_the_limits_that_a_shell_can_set_are_set():
    async def conversation():
        limits = SandboxLimits(wall_seconds=5, cpu_seconds=1, output_bytes=1000, file_bytes=2**16)
        async with Nearby(limits) as sandbox:
            for seconds in (0.2, 1.0, 5.0):  # on a busy machine the shell takes longer to start than that
                late = await sandbox.run("echo begun; sleep 60; echo over", timeout_seconds=seconds)
                if late.stdout:
                    break
            assert (late.timed_out, late.exit_code, late.stdout) == (True, None, "begun\n")
            busy = await sandbox.run("while :; do :; done")
            assert busy.exit_code in (128 + 24, 128 + 9)
            assert not busy.timed_out
            long = await sandbox.run("head -c 5000 /dev/zero | tr '\\0' x")
            assert (long.stdout, long.truncated) == ("x" * 1000, True)
            flood = await sandbox.run("yes")
            assert flood.truncated
            assert not flood.ok
            await sandbox.run("head -c 1000000 /dev/zero > big")
            assert len(await sandbox.download("big")) <= 2**16

    run(conversation())


def test_a_directory_is_uploaded(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "main.sh").write_text("echo main")

    async def conversation():
        async with Nearby() as sandbox:
            await sandbox.upload(tmp_path, "here")
            assert (await sandbox.run("sh here/package/main.sh")).stdout == "main\n"

    run(conversation())


def test_a_shell_that_answers_something_else_is_a_fault_of_the_sandbox():
    for printed in ("", "not a\nresult\nat all\n", "took 1 0\nout %%%\nerr \n", "took 1 x\nout \nerr \n"):
        with pytest.raises(SandboxError, match="answered"):
            read_result(printed, 1, 10)


def test_what_a_login_shell_says_first_and_what_a_service_strips_does_not_matter():
    result = read_result("Welcome!\ntook 0 4\nout aGk=\nerr", 1, 10)
    assert (result.exit_code, result.stdout, result.stderr) == (4, "hi", "")


def test_a_closed_sandbox_refuses_use():
    async def conversation():
        sandbox = await Nearby().start()
        with pytest.raises(SandboxError, match="already started"):
            await sandbox.start()
        await sandbox.close()
        await sandbox.close()
        with pytest.raises(SandboxError, match="closed"):
            await sandbox.run("true")

    run(conversation())


@pytest.mark.parametrize(
    ("make", "package"), [(DaytonaSandbox, "daytona"), (E2BSandbox, "e2b"), (ModalSandbox, "modal")]
)
def test_a_package_that_is_missing_is_named(make, package, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, package, None)

    async def conversation():
        with pytest.raises(SandboxError, match=f"pip install {package}"):
            await make().start()

    run(conversation())
