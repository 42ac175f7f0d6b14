"""Scaffolded folders at work: by the command that tries them, on both servers, played by both clients."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ors_gym import EpisodeRunner, ORSClient, RolloutLimits, StopReason, trajectory_return
from ors_gym.cli import main as cli
from ors_gym.rollouts.tasks import load_tasks
from ors_gym.testing import check_server
from ors_gym.types import ImageBlock
from ors_gym_server import as_openreward, create_app
from ors_gym_server.sandbox import IsolationError, LocalSandbox
from ors_gym_server.scaffold import ARCHETYPES, scaffold
from ors_gym_server.scaffold.smoke_test import check_gates
from tests.support.ors_servers import RunningServer, serve, serve_app

KINDS = [*ARCHETYPES, "gym:FrozenLake-v1"]
OWN_MODULES = ("server", "tasks", "player", "drawing", "rollout", "ray_app")


def why_no_sandbox() -> str:
    async def attempt() -> str:
        sandbox = LocalSandbox()
        try:
            await sandbox.start()
        except IsolationError as error:
            return str(error)
        finally:
            await sandbox.close()
        return ""

    return asyncio.run(attempt())


@contextlib.contextmanager
def modules_of(folder: Path, *names: str) -> Iterator[list[ModuleType]]:
    """The folder's own modules, imported as a program that runs there imports them, in the place of any other's."""
    others = {name: sys.modules.pop(name) for name in OWN_MODULES if name in sys.modules}
    sys.path.insert(0, str(folder))
    try:
        yield [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(folder))
        for name in OWN_MODULES:
            sys.modules.pop(name, None)
        sys.modules.update(others)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "sandbox" and (reason := why_no_sandbox()):
        pytest.skip(reason)
    return request.param


@pytest.fixture(scope="module")
def environment(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[type, type]]:
    """The environment's class, and its player's."""
    folder = tmp_path_factory.mktemp("new") / "my-world"
    scaffold(folder, kind)
    with modules_of(folder, "server", "player") as (server, player):
        yield server.MyWorld, player.Player


@pytest.fixture(scope="module", params=["ours", "the reference SDK's"])
def running(environment: tuple[type, type], request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    made = serve_app(create_app([environment[0]])) if request.param == "ours" else serve(as_openreward(environment[0]))
    with made as server:
        yield server


def test_the_server_keeps_to_the_protocol(running: RunningServer):
    report = asyncio.run(check_server(running.url))
    assert report.ok, report


def test_its_player_plays_every_split_to_an_end(running: RunningServer, environment: tuple[type, type], kind: str):
    async def play() -> list[Any]:
        async with ORSClient(running.url) as client:
            runner = EpisodeRunner(client, environment[1](), limits=RolloutLimits(200))
            splits = [split.name for split in await client.list_splits("myworld")]
            tasks = [task for split in splits for task in await load_tasks(client, "myworld", split, limit=2)]
            return [await runner.run_episode(task) for task in tasks]

    episodes = asyncio.run(play())
    assert len(episodes) == 6
    assert {episode.stop_reason for episode in episodes} == {StopReason.FINISHED}, [it.failure for it in episodes]
    returns = {trajectory_return(episode) for episode in episodes}
    assert returns <= {0.0, 1.0} if kind.startswith("gym") else returns == {1.0}


@pytest.mark.parametrize("kind", ["game"], indirect=True)
def test_the_reference_client_plays_it_too(running: RunningServer):
    from openreward.api.environments.client import EnvironmentsAPI

    environment = EnvironmentsAPI(base_url=running.url, api_key="").get("myworld")
    (task,) = environment.get_task_range("train", 0, 1)
    with environment.session(task=task) as session:
        assert "I have chosen a code" in session.get_prompt()[0].text
        output = session.call_tool("guess", {"code": task.task_spec["code"]})
    assert (output.reward, output.finished) == (1.0, True)


@pytest.mark.parametrize("kind", ["vision"], indirect=True)
def test_pictures_are_seen_in_the_prompt_and_in_results(running: RunningServer):
    async def look() -> list[Any]:
        async with ORSClient(running.url) as client, client.session("myworld", split="train", index=0) as session:
            zoomed = await session.call_tool("zoom", {"row": 1, "column": 4})
            wrong = await session.call_tool("zoom", {"row": 0, "column": 4})
            return [[type(block) for block in await session.get_prompt()], zoomed.images[0].mime_type, wrong.reason]

    kinds, mime_type, reason = asyncio.run(look())
    assert kinds.count(ImageBlock) == 1
    assert (mime_type, reason) == ("image/png", "input_validation")


@pytest.mark.parametrize("kind", ["sandbox"], indirect=True)
def test_the_agent_s_shell_sees_the_data_and_not_the_answers(running: RunningServer):
    async def try_it() -> list[str]:
        async with ORSClient(running.url) as client, client.session("myworld", split="train", index=0) as session:
            commands = ["head -1 sales.csv", f"cat {Path(__file__)}", "exit 3", "echo a; seq 100000", "true"]
            return [(await session.call_tool("bash", {"command": command})).text for command in commands]

    data, hidden, failed, long, silent = asyncio.run(try_it())
    assert data == "order,date,store,product,quantity,unit_price"
    assert "No such file" in hidden
    assert failed == "[exit code 3]"
    assert long.endswith("[there was more]")
    assert silent == "[no output]"


def test_an_openenv_server_s_environment_is_scaffolded_and_played(tmp_path: Path):
    pytest.importorskip("openenv")
    from openenv.core.env_server import create_fastapi_app

    from tests.support.openenv_environments import WalkAction, WalkEnvironment, WalkObservation

    app = create_fastapi_app(WalkEnvironment, WalkAction, WalkObservation, max_concurrent_envs=2, mode="simulation")
    with serve_app(app, ws="websockets-sansio") as running:
        scaffold(tmp_path / "walk", f"openenv:{running.url}")
        gates = list(check_gates(tmp_path / "walk"))
    assert [gate.passed for gate in gates] == [True] * 5, gates
    assert 'dependencies = ["ors-gym[openenv]"]' in (tmp_path / "walk/pyproject.toml").read_text()


# ------------------------------------------------------------------- gates


@pytest.mark.parametrize("options", [[], ["--sdk"]])
def test_a_new_folder_passes_its_gates(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]):
    scaffold(tmp_path / "lake", "gym:FrozenLake-v1")
    assert cli.main(["gates", str(tmp_path / "lake"), *options]) == 0
    gates = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert gates == [["pass", name] for name in ("server", "environments", "tools", "rollout", "tasks")]


@pytest.mark.parametrize(
    ("name", "code", "gate", "message"),
    [
        ("server.py", "raise SystemExit('no such thing')", "server", "exit status 1\nno such thing"),
        ("rollout.py", "raise SystemExit('it went on and on')", "rollout", "it went on and on"),
    ],
)
def test_a_gate_that_is_not_passed_says_what_the_program_said(
    tmp_path: Path, name: str, code: str, gate: str, message: str
):
    scaffold(tmp_path / "lake", "game")
    (tmp_path / "lake" / name).write_text(code)
    *passed, failed = check_gates(tmp_path / "lake", seconds=60)
    assert all(each.passed for each in passed)
    assert (failed.name, failed.passed) == (gate, False)
    assert failed.message.endswith(message)


def test_gates_of_something_else_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["gates", str(tmp_path)]) == 2
    assert "has no server.py" in capsys.readouterr().err


# ------------------------------------------------------------------- README.md


def test_the_commands_of_the_readme_run(tmp_path: Path):
    """All but those of pip, docker, git and Ray's ``serve``: of images, accounts and clusters there are other tests."""
    folder = tmp_path / "code-breaker"
    scaffold(folder, "game")
    blocks = re.findall(r"^```sh\n(.*?)^```$", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    tried = [line for line in commands if not re.match("python -m pip|docker|git|serve|python server.py &", line)]
    assert len(tried) == 7, commands
    (tmp_path / "space").mkdir()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with serve_new(folder) as url:
        for line in tried:
            command = ["sh", "-c", line.replace("http://127.0.0.1:8080", url)]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert (tmp_path / "space/Dockerfile").read_text() == (folder / "Dockerfile.spaces").read_text()
    assert (tmp_path / "space/README.md").read_text().startswith("---\ntitle: CodeBreaker\n")
    assert {path.name for path in (tmp_path / "space").iterdir()} >= {".dockerignore", "server.py", "pyproject.toml"}


def test_what_the_readme_says_of_ray_serve_makes_an_application(tmp_path: Path):
    ray_serve = pytest.importorskip("ray.serve")
    scaffold(tmp_path / "code-breaker", "game")
    readme = (tmp_path / "code-breaker/README.md").read_text()
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    (tmp_path / "code-breaker/ray_app.py").write_text(snippet)
    with modules_of(tmp_path / "code-breaker", "ray_app") as (ray_app,):
        assert isinstance(ray_app.app, ray_serve.Application)


@contextlib.contextmanager
def serve_new(folder: Path) -> Iterator[str]:
    command = [sys.executable, "server.py", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().removeprefix("Serving at ").strip()
        finally:
            process.terminate()


def test_a_server_of_sandboxes_says_at_its_start_where_no_session_can_work(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "my-world"
    scaffold(folder, "sandbox")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("ors_gym_server.sandbox.confinement.SYSTEM_PATH", "/nowhere")
    monkeypatch.setattr(sys, "argv", ["server.py", "--help"])
    with modules_of(folder), pytest.raises(SystemExit):
        runpy.run_path(str(folder / "server.py"), run_name="__main__")
    said = capsys.readouterr().err
    assert "Only sessions with the secret E2B_API_KEY work here: this machine supports no sandbox" in said
    assert "bubblewrap: not installed: bwrap" in said
