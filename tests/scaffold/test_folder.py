"""The folder that ``ors-gym new`` writes: what is in it, what is refused, and that the code in it is clean."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from ors_gym.cli import main as cli
from ors_gym_server.scaffold import ARCHETYPES, ScaffoldError, scaffold
from tests.support.paths import ROOT

TEMPLATES = ROOT / "integrations/ors_gym_server/scaffold/templates"
KINDS = [*ARCHETYPES, "gym:FrozenLake-v1"]
EXPECTED = {
    "server.py",
    "tasks.py",
    "player.py",
    "rollout.py",
    "pyproject.toml",
    "Dockerfile",
    "Dockerfile.spaces",
    ".dockerignore",
    ".gitignore",
    "README.md",
    "README.spaces.md",
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_the_files_that_authors_expect_and_none_of_the_template_s_names(tmp_path: Path, kind: str):
    folder = tmp_path / "code_Breaker-2"
    written = scaffold(folder, kind)
    assert {str(path.relative_to(folder)) for path in written} >= EXPECTED
    text = "\n".join(path.read_text() for path in written)
    assert "CodeBreaker2" in text
    assert "codebreaker2" in text
    assert "code-breaker-2" in text
    assert not re.search("(?i:my-?environment)|ABOUT", text)
    assert tomllib.loads((folder / "pyproject.toml").read_text())["project"]["name"] == "code-breaker-2"


@pytest.mark.parametrize("kind", [*ARCHETYPES, "gym", "openenv"])
def test_a_server_is_started_by_one_line(kind: str):
    lines = (TEMPLATES / kind / "server.py").read_text().splitlines()
    assert lines[-1] == "    main(MyEnvironment)"
    if kind != "sandbox":  # which says first where no session can work
        assert lines[-2] == 'if __name__ == "__main__":'


def test_the_spaces_image_is_the_plain_one_at_another_port():
    for kind in ("shared", "sandbox"):
        plain, spaces = [
            [line for line in (TEMPLATES / kind / name).read_text().splitlines() if not line.startswith("#")]
            for name in ("Dockerfile", "Dockerfile.spaces")
        ]
        assert [line.replace("8080", "7860") for line in plain] == spaces


def test_the_spaces_front_page_says_what_the_hub_reads(tmp_path: Path):
    scaffold(tmp_path / "lake", "game")
    front = (tmp_path / "lake/README.spaces.md").read_text().split("---\n")[1]
    assert (
        dict(line.split(": ") for line in front.splitlines()).items() >= {"sdk": "docker", "app_port": "7860"}.items()
    )


@pytest.mark.parametrize("name", ["2048", "-x", "a b", "é", "a--b", "x" * 41, "environment", "none", "tool-output"])
def test_an_invalid_name_is_refused(tmp_path: Path, name: str):
    with pytest.raises(ScaffoldError, match="name"):
        scaffold(tmp_path / name, "game")
    assert not any(tmp_path.iterdir())


def test_nothing_is_written_over(tmp_path: Path):
    (tmp_path / "game").mkdir()
    (tmp_path / "game/notes.txt").write_text("mine")
    with pytest.raises(ScaffoldError, match="not empty"):
        scaffold(tmp_path / "game", "game")
    assert [path.name for path in (tmp_path / "game").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "source", ["gym:NoSuch-v0", "gym:no_such_module:A-v0", "gym:", "openai:x", "chess", "openenv:x"]
)
def test_a_source_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path, source: str):
    with pytest.raises(ScaffoldError, match=r"NoSuch|no_such_module|no archetype|gym:|not a URL|no attribute"):
        scaffold(tmp_path / "lake", source)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("env_id", "requirement"),
    [
        pytest.param("LunarLander-v3", "gymnasium[box2d]", marks=pytest.mark.needs("box2d")),
        ("minigrid:MiniGrid-Empty-5x5-v0", "minigrid"),
    ],
)
@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning")  # Box2D, when imported
def test_what_a_gymnasium_environment_needs_is_required(tmp_path: Path, env_id: str, requirement: str):
    scaffold(tmp_path / "lake", f"gym:{env_id}")
    project = tomllib.loads((tmp_path / "lake/pyproject.toml").read_text())["project"]
    assert project["dependencies"] == ["ors-gym[server]", requirement]
    assert f'as_ors_environment("{env_id}"' in (tmp_path / "lake/server.py").read_text()


def test_the_command_says_what_it_wrote_and_what_to_try(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["new", str(tmp_path / "lake"), "--from", "gym:FrozenLake-v1"]) == 0
    said = capsys.readouterr().out
    assert "server.py" in said
    assert "ors-gym gates ." in said
    assert cli.main(["new", str(tmp_path / "lake")]) == 2
    assert "not empty" in capsys.readouterr().err
    assert cli.main(["new", str(tmp_path / "pond"), "--from", "FrozenLake-v1"]) == 2
    assert "write gym:ID, openenv:URL or module:Class" in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    needs = 'from ors_gym.extras import packages_of\nwith packages_of("server"):\n    import no_such_package'
    (tmp_path / "needing.py").write_text(needs)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.COMMANDS, "new", ("needing", ""))
    assert cli.main(["new", "x"]) == 2
    assert "pip install 'ors-gym[server]'" in capsys.readouterr().err


@pytest.mark.needs("mypy", "ruff")
@pytest.mark.parametrize("kind", KINDS)
def test_the_code_is_clean_by_the_rules_of_this_project(tmp_path: Path, kind: str):
    folder = tmp_path / "breaker"
    scaffold(folder, kind)
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    rules = ["--select", ",".join(lint["select"]), "--ignore", ",".join(lint["ignore"])]
    for command in (
        ["ruff", "check", "--no-cache", *rules, "."],
        ["ruff", "format", "--no-cache", "--check", "."],
        ["mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache"), "."],  # what `make check` knows already
    ):
        done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_templates_are_in_the_wheel(ors_gym_wheel: Path):
    with zipfile.ZipFile(ors_gym_wheel) as wheel:
        inside = {name.partition("scaffold/templates/")[2] for name in wheel.namelist() if "/templates/" in name}
    assert inside == {
        str(path.relative_to(TEMPLATES))
        for path in TEMPLATES.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


MODULE = '''
import gymnasium


class Rooms(gymnasium.Env):
    """Find the way out."""

    action_space = gymnasium.spaces.Discrete(2)
    observation_space = gymnasium.spaces.Discrete(9)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return int(self.np_random.integers(9)), {}

    def step(self, action):
        return 0, 1.0, True, False, {}


if "Rooms-v0" not in gymnasium.registry:
    gymnasium.register("Rooms-v0", Rooms)
'''


@pytest.mark.parametrize("source", ["own_rooms:Rooms", "gym:own_rooms:Rooms-v0"])
def test_an_environment_of_a_module_here_is_taken_along(tmp_path, monkeypatch, capsys, source):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    monkeypatch.delitem(sys.modules, "own_rooms", raising=False)
    (tmp_path / "own_rooms.py").write_text(MODULE)
    assert cli.main(["new", "way-out", "--from", source]) == 0, capsys.readouterr().err
    folder = tmp_path / "way-out"
    assert (folder / "own_rooms.py").read_text() == MODULE
    code = "import server; made = server.WayOut({'seed': 1}); made.setup(); print(made.get_prompt()[-1].text)"
    played = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert played.stdout.strip().isdecimal(), played.stderr
    (wheel,) = (folder / "wheels").glob("ors_gym-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"ors_gym/py.typed", "ors_gym_server/scaffold/templates/shared/README.md"} <= names
    assert not any("__pycache__" in name for name in names)


def test_the_class_name_is_not_allowed_for_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    monkeypatch.delitem(sys.modules, "own_rooms", raising=False)
    (tmp_path / "own_rooms.py").write_text(MODULE)
    with pytest.raises(ScaffoldError, match="choose another name"):
        scaffold(tmp_path / "rooms", "own_rooms:Rooms")
    with pytest.raises(ScaffoldError, match=r"is not a gymnasium\.Env"):
        scaffold(tmp_path / "words", "json:JSONDecoder")
