"""``ors-gym serve``: what it serves, what it says, and what it says when it cannot."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys

import pytest

from ors_gym import ORSClient
from ors_gym.cli.main import main
from ors_gym.testing import probe_tasks
from ors_gym.types import ToolSpec, text_of
from ors_gym_server import create_app, tool
from ors_gym_server.cli.serve import add_options
from ors_gym_server.cli.targets import environment_of
from ors_gym_server.run.serve import default_port
from tests.support.ors_servers import serve_app
from tests.support.task_environments import OneTask


class Served:
    """A server that the command line started."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said = []
        while "Ctrl-C stops it." not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
            self.said.append(line)
        self.text = "".join(self.said)
        self.url = re.search(r"Serving at (\S+)", self.text)[1]


@pytest.fixture
def serve_by_command():
    """Start ``ors-gym serve`` with these arguments, and stop it by Ctrl-C."""
    processes = []

    def start(*arguments, rehearsal=False):
        arguments = [*arguments, *([] if rehearsal else ["--no-rehearsal"])]
        code = "import sys; from ors_gym.cli.main import main; sys.exit(main())"
        command = [sys.executable, "-c", code, "serve", *arguments, "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        return Served(process)

    yield start
    for process in processes:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def test_a_gymnasium_environment_is_served_and_the_first_commands_are_said(serve_by_command, run, capsys):
    served = serve_by_command(
        "gym:FrozenLake-v1",
        "--set",
        "is_slippery=false",
        "--split",
        "train=5:7",
        "--name",
        "Lake",
        "--tool-per-action",
        rehearsal=True,
    )
    assert "tasks: 2 train" in served.text
    assert "Note: lake: the first 2 tasks of train are identical" in served.text
    assert re.search(r"down\(\) +Take one step in FrozenLake-v1\. Action: down\.", served.text)
    assert f"ors-gym play {served.url} --env lake" in served.text
    assert f'gym.make("ors_gym/ORS-v0", url="{served.url}", env_name="lake")' in served.text

    async def conversation():
        async with ORSClient(served.url) as client:
            assert await client.get_task("lake", "train", 0) == {"id": "train-0", "seed": 5}
            async with client.session("lake", split="train", index=1) as session:
                assert "You play FrozenLake-v1" in text_of(await session.get_prompt())
                assert (await session.call_tool("down")).text.startswith("SFFF\n[F]HFH\n")

    run(conversation())
    assert main(["check", served.url]) == 0, capsys.readouterr().out
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(30) == 0


def test_what_shares_random_state_is_sound_with_one_session_a_process(serve_by_command, run):
    served = serve_by_command("tests.support.task_environments:Global", "--isolated", "2")

    async def conversation():
        async with ORSClient(served.url) as client:
            return await probe_tasks(client, "global", "train", num_tasks=2)

    report = run(conversation())
    assert {each.name: each.holds for each in report.findings} == dict.fromkeys(
        ("repeatable", "independent", "different"), True
    )


def test_several_environments_and_classes_of_any_kind_are_served(serve_by_command, run):
    pytest.importorskip("openenv")
    served = serve_by_command(
        "gym:CartPole-v1",
        "tests.support.environments:Counter",  # of the reference SDK
        "tests.support.openenv_environments:WalkEnvironment",
        "tests.support.port_environments:AdventureEnv",
        "--actions=",
    )

    async def conversation():
        async with ORSClient(served.url) as client:
            assert await client.list_environments() == ("cartpole", "counter", "walk", "adventure")

    run(conversation())


def test_an_openenv_server_is_served_by_its_url(serve_by_command, run):
    pytest.importorskip("openenv")
    from openenv.core.env_server import create_fastapi_app

    from tests.support.openenv_environments import WalkAction, WalkEnvironment, WalkObservation

    app = create_fastapi_app(WalkEnvironment, WalkAction, WalkObservation, max_concurrent_envs=4, mode="simulation")
    with serve_app(app, ws="websockets-sansio") as running:
        served = serve_by_command(f"openenv:{running.url}", "--name", "walk")

        async def conversation():
            async with ORSClient(served.url) as client:
                async with client.session("walk", split="train", index=0) as session:
                    assert (await session.call_tool("step", {"direction": "right"})).text == "place: 1\nview: [0, 2]"

        run(conversation())


def test_a_class_of_an_openenv_environment_is_found_by_its_module():
    pytest.importorskip("openenv")
    target = "openenv:tests.support.openenv_environments:WalkEnvironment"
    parser = argparse.ArgumentParser()
    add_options(parser)
    made = environment_of(target, parser.parse_args([target, "--split", "train=0:3"]))
    assert (made.name().lower(), made.num_tasks("train")) == ("walk", 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gym:FrozenLak-v1"], "Did you mean: `FrozenLake`? There is FrozenLake-v1"),
        (["FrozenLake-v1"], "neither gym:ID, openenv:URL nor module:Class; did you mean gym:FrozenLake-v1?"),
        (
            ["gym:no_such_module:X-v0"],
            "needs the module 'no_such_module', which is neither installed nor in this folder",
        ),
        (["gym:CartPole-v1", "--actions", "left"], "do not fit the action space Discrete(2)"),
        (["gym:CartPole-v1", "--render", "ansi"], "has no render_mode 'ansi'; it has human, rgb_array"),
        (["gym:CartPole-v1", "--split", "train=3"], "--split train=3: write it as train=0:1000"),
        (["gym:CartPole-v1", "--split", "a=0:3", "--split", "b=2:4"], "'a' and 'b' have tasks in common"),
        (["gym:CartPole-v1", "--set", "x"], "--set x: write it as name=value"),
        (["gym:CartPole-v1", "--set", "x=1"], "unexpected keyword argument 'x'"),
        (["gym:CartPole-v1", "--host", "0.0.0.0"], "pass --api-key, or --open-to-all if that is meant"),
        (["gym:CartPole-v1", "gym:Taxi-v4", "--name", "x"], "--name is for one environment"),
        (["openenv:http://127.0.0.1:1"], "no OpenEnv server answers at http://127.0.0.1:1"),
        (["openenv:http://127.0.0.1:1", "--set", "x=1"], "has made its own"),
        (["tests.support.environments:Nothing"], "has no attribute 'Nothing'"),
        (["openenv:tests.support.environments:Nothing"], "has no attribute 'Nothing'"),
        (["tests.support.environments:PIXEL"], "is no class, and no function that makes an environment"),
        (
            ["gym:CartPole-v1", "--formatter", "json:nothing"],
            "--formatter json:nothing: module 'json' has no attribute",
        ),
        (["gym:CartPole-v1", "--drawing-only"], "there is no drawing to show: the environment has human, rgb_array"),
        (["json:JSONDecoder"], "JSONDecoder'> is no environment: subclass ors_gym_server.Environment"),
        (["gym:CartPole-v1", "--port", "70000"], "the port must be from 0 to 65535, not 70000"),
        (
            ["tests.support.environments:Counter", "--name", "x"],
            "--name cannot be used with tests.support.environments:Counter",
        ),
        (
            ["tests.support.port_environments:OutOfDateEnv"],
            "OutOfDateEnv cannot be made: AssertionError: the joint moved, in ",
        ),
    ],
)
def test_what_cannot_be_served_is_reported_in_one_line(capsys, monkeypatch, arguments, said):
    monkeypatch.delenv("ORS_API_KEY", raising=False)
    assert main(["serve", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_port_in_use_is_reported(capsys):
    with serve_app(lambda scope, receive, send: None) as running:
        port = running.url.rsplit(":", 1)[1]
        assert main(["serve", "gym:CartPole-v1", "--port", port]) == 2
    assert f"cannot listen at 127.0.0.1:{port}" in capsys.readouterr().err


def test_without_the_server_packages_the_command_says_what_to_install(capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("ors_gym_server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "gym:CartPole-v1"]) == 2
    assert "pip install 'ors-gym[server]'" in capsys.readouterr().err


def test_the_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    out = capsys.readouterr().out
    assert "gym:FrozenLake-v1" in out
    assert "openenv:http://localhost:8000" in out
    assert "my_module:MyEnvironment" in out


def test_modules_of_the_working_folder_are_served_by_id_and_by_function(tmp_path, monkeypatch, serve_by_command):
    (tmp_path / "lakes.py").write_text(
        "import gymnasium\ngymnasium.register('Pond-v0', 'gymnasium.envs.toy_text:FrozenLakeEnv')\n"
        "def make_lake():\n    return gymnasium.make('FrozenLake-v1')\n"
        "def told(observation, info):\n    return f'at {observation}'\n"
    )
    monkeypatch.chdir(tmp_path)
    served = serve_by_command("gym:lakes:Pond-v0", "lakes:make_lake", "--formatter", "lakes:told", "--render", "none")
    assert "pond" in served.text
    assert "frozenlake" in served.text


def test_arguments_that_refer_to_shared_schemas_are_listed_by_what_they_are(capsys):
    from rich.console import Console

    from ors_gym.cli.output import print_tools

    nested = {"type": "array", "items": {"$ref": "#/$defs/Nested"}}
    schema = {
        "$defs": {"Move": {"enum": ["UP", "DOWN"]}, "Nested": nested},
        "properties": {"move": {"$ref": "#/$defs/Move"}, "path": nested, "other": {"$ref": "#/$defs/Other"}},
        "required": ["move"],
    }
    print_tools(Console(width=120), [ToolSpec("step", "", schema)])
    out = capsys.readouterr().out.strip()
    assert out == 'step(move: "UP"|"DOWN", path?: [[object]], other?: object)'


@pytest.mark.parametrize("port", ["http", "-1", "999999", "8080x"])
def test_an_invalid_port_in_the_environment_is_refused(capsys, monkeypatch, port):
    monkeypatch.setenv("PORT", port)
    assert main(["serve", "gym:FrozenLake-v1"]) == 2
    assert f"the variable PORT is '{port}'" in capsys.readouterr().err


def test_python_without_docstrings_is_warned_of():
    program = (
        "from ors_gym_server import as_ors_environment, create_app; create_app([as_ors_environment('FrozenLake-v1')])"
    )
    ended = subprocess.run([sys.executable, "-OO", "-c", program], capture_output=True, text=True, check=True)
    assert "python -OO removes docstrings" in ended.stderr
    assert "(step)" in ended.stderr


def test_the_port_of_a_platform_is_used(monkeypatch):
    monkeypatch.setenv("PORT", "9123")
    assert default_port() == 9123
    monkeypatch.delenv("PORT")
    assert default_port() == 8080


class Rocket(OneTask):
    """Has a tool that no ASCII describes."""

    def get_prompt(self):
        return "Fly \N{ROCKET}."

    @tool
    def launch(self) -> str:
        """Launch the \N{ROCKET}."""
        return "\N{ROCKET}"


@pytest.mark.parametrize("encoding", ["ascii", "cp437"])
@pytest.mark.parametrize("command", [["list"], ["play"], ["serve", "--help"]], ids=" ".join)
def test_characters_that_the_output_cannot_take_are_replaced(encoding, command):
    with serve_app(create_app([Rocket])) as running:
        arguments = command if command[0] == "serve" else [*command, running.url]
        ended = subprocess.run(
            [sys.executable, "-c", "import sys; from ors_gym.cli.main import main; sys.exit(main())", *arguments],
            env=os.environ | {"PYTHONIOENCODING": encoding},
            input=b"launch\n",
            capture_output=True,
            check=False,
        )
    assert b"Traceback" not in ended.stderr
    assert ended.returncode in (0, 1)  # the input of the game has an end
    assert b"?" in ended.stdout
