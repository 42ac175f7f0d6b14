"""The first minute: ``ors-gym demo``, ``ors-gym examples`` and ``python -m ors_gym``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ors_gym.cli.main import main
from tests.support.paths import ROOT


def test_the_demo_plays_two_policies_and_writes_a_page_without_torch(tmp_path: Path):
    program = f"""
import sys
sys.modules |= dict.fromkeys(["torch", "transformers", "trl", "ray", "scipy"])  # importing them fails
from ors_gym.cli.main import main
sys.exit(main(["demo", "--no-open", "--output", {str(tmp_path)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=110)

    assert done.returncode == 0, done.stderr
    assert "scripted   mean return 1.00 of 16 episodes" in done.stdout
    page = tmp_path / "episodes.html"
    assert page.resolve().as_uri() in done.stdout
    assert "find the button ." in page.read_text("utf-8")


def test_training_names_the_extra_that_is_missing(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    assert main(["demo", "--train"]) == 2
    assert (
        capsys.readouterr().err == "ors-gym: --train: the package trl is not installed: pip install 'ors-gym[demo]'\n"
    )


def test_examples_are_listed_printed_and_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["examples"]) == 0
    assert "buttons" in capsys.readouterr().out
    assert main(["examples", "buttons"]) == 0
    assert capsys.readouterr().out == (ROOT / "examples/buttons.py").read_text("utf-8")
    assert main(["examples", "--copy", str(tmp_path / "mine")]) == 0
    assert (tmp_path / "mine" / "train_grpo.py").is_file()
    assert main(["examples", "--copy", str(tmp_path / "mine")]) == 2
    assert main(["examples", "nothing"]) == 2
    assert "train_grpo" in capsys.readouterr().err


def test_python_dash_m_is_the_command_line():
    done = subprocess.run([sys.executable, "-m", "ors_gym", "--version"], capture_output=True, text=True, timeout=60)

    assert done.stdout.startswith("ors-gym ")
