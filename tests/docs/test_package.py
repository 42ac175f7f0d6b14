"""The package as users see it: its names, what importing it costs, and which way its imports point."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ors_gym
from tests.support.paths import ROOT

PATHS = {
    str(path.relative_to(base).with_suffix("")).replace("/", ".").removesuffix(".__init__"): path
    for base in (ROOT, ROOT / "integrations")
    for path in base.glob("ors_gym*/**/*.py")
    if "templates" not in path.parts
}


@pytest.mark.parametrize("module", ["ors_gym", "ors_gym_ray", "ors_gym_server", "ors_gym_trl"])
def test_every_name_in_all_exists_and_they_are_sorted(module: str):
    exported = importlib.import_module(module)

    assert exported.__all__ == sorted(exported.__all__, key=lambda name: (not name.isupper(), name.lower())) or (
        exported.__all__ == sorted(exported.__all__)
    )
    assert all(hasattr(exported, name) for name in exported.__all__)


def test_the_top_level_holds_what_most_programs_need_and_no_more():
    assert len(ors_gym.__all__) <= 36


@pytest.mark.parametrize("module", sorted(PATHS))
def test_every_module_says_what_it_is(module: str):
    assert ast.get_docstring(ast.parse(PATHS[module].read_text()))


@pytest.mark.parametrize(
    ("statement", "missing", "extra"),
    [
        ("import ors_gym_ray", "ray", "ray"),
        ("from ors_gym_ray import serve_app", "ray.serve", "serve"),
        ("import ors_gym_server", "pydantic", "server"),
        ("from ors_gym_server.run import serve", "uvicorn", "server"),
        ("from ors_gym_server import from_openenv", "openenv", "openenv"),
        ("import ors_gym_trl", "accelerate", "trl"),
        ("import ors_gym_trl.rollouts", "trl", "trl"),
        ("import ors_gym_inspect", "inspect_ai", "inspect"),
        ("import ors_gym.evaluation", "scipy", "eval"),
        ("from ors_gym.reporting import to_dataset; to_dataset([])", "datasets", "datasets"),
    ],
)
def test_a_package_of_an_extra_that_is_missing_is_named_with_the_extra(statement: str, missing: str, extra: str):
    script = f"import sys; sys.modules[{missing!r}] = None; {statement}"

    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stderr

    last = said.splitlines()[-1]
    assert (
        last
        == f"ModuleNotFoundError: the package {missing.split('.')[0]} is not installed: pip install 'ors-gym[{extra}]'"
    )


def test_importing_the_core_pulls_in_no_trainer_no_cluster_and_no_server():
    heavy = ["ray", "trl", "torch", "transformers", "openreward", "datasets", "uvicorn", "pydantic"]
    script = f"import sys, ors_gym; print([name for name in {heavy} if name in sys.modules])"

    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert shown.strip() == "[]"


def test_a_name_of_the_top_level_is_imported_when_it_is_used():
    script = "import sys, ors_gym; before = 'ors_gym.client' in sys.modules; ors_gym.ORSClient; ors_gym.types.Message"
    script += "; print(before, 'ORSClient' in vars(ors_gym))"

    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert shown.split() == ["False", "True"]
    assert set(ors_gym.__all__) <= set(dir(ors_gym))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ors_gym.nonsense


def test_version_and_help_of_the_command_line_import_no_client():
    script = "import sys; from ors_gym.cli.main import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    script += "print([name for name in ('httpx', 'jsonschema', 'rich', 'ors_gym.client') if name in sys.modules])"
    for option in ("--version", "--help"):
        shown = subprocess.run(
            [sys.executable, "-c", script, option], capture_output=True, text=True, check=True
        ).stdout

        assert shown.splitlines()[-1] == "[]"


def test_the_unit_tests_need_only_the_core():
    others = ["ors_gym_ray", "ors_gym_server", "ors_gym_trl", "openreward", "ray", "torch", "transformers", "trl"]
    others += ["datasets", "openenv", "pydantic", "starlette", "uvicorn"]
    script = f"""
import sys, pytest
sys.modules |= dict.fromkeys({others})  # importing them fails
sys.exit(pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", "tests/unit"]))
"""

    collected = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)

    assert collected.returncode == 0, collected.stdout[-4000:]


def test_the_version_is_reported_in_one_way():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dated = re.findall(r"^## \[(.+)\] - [\d-]+$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert project["dynamic"] == ["version"]
    assert ors_gym.__version__ == dated[0]
    assert f"version: {ors_gym.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.needs("import-linter")
def test_imports_point_one_way():
    checked = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )

    assert checked.returncode == 0, checked.stdout
