"""The local sandbox as its users and the programs in it find it; ``test_attempts`` has what it must stop."""

from __future__ import annotations

import asyncio
import sys
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
from tests.support.sandboxes import run, sandbox_by

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
        with pytest.raises(IsolationError, match=r"(?s)plain: works, but does not guarantee files\n.*accept less"):
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


def test_other_systems_than_linux_get_the_alternatives(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(IsolationError, match=r"needs Linux, and this is darwin: .*container, or use E2BSandbox"):
        asyncio.run(LocalSandbox().start())
