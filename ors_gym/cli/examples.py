"""``ors-gym examples``: list, print and copy the packaged examples."""

from __future__ import annotations

import argparse
import ast
import shutil
from pathlib import Path

from rich.console import Console

import ors_gym
from ors_gym.cli.exits import InputError
from ors_gym.cli.output import say

__all__ = ["HELP", "add_options", "examples_command", "examples_folder"]

HELP = """\
List the packaged examples, print one, or copy them all.

  ors-gym examples                    list all
  ors-gym examples buttons            print one
  ors-gym examples --copy examples    copy all of them into a folder
"""


def examples_folder() -> Path:
    """The folder of the examples: in the package, or next to it in a clone."""
    package = Path(ors_gym.__file__).parent
    return next(folder for folder in (package / "examples", package.parent / "examples") if folder.is_dir())


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("name", nargs="?", help="the example to print")
    parser.add_argument("--copy", metavar="DIR", type=Path, help="the new folder to copy them to")


def examples_command(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command."""
    found = {path.stem: path for path in sorted(examples_folder().glob("*.py"))}
    if arguments.copy is not None:
        if arguments.copy.exists():
            raise InputError(f"{arguments.copy} already exists")
        shutil.copytree(examples_folder(), arguments.copy, ignore=shutil.ignore_patterns("__pycache__"))
        say(console, f"Copied {len(found)} examples to {arguments.copy}")
    elif arguments.name is not None:
        path = found.get(arguments.name.removesuffix(".py"))
        if path is None:
            raise InputError(f"there is no example {arguments.name!r}; choose one of {', '.join(found)}")
        print(path.read_text(encoding="utf-8"), end="")
    else:
        width = max(map(len, found))
        for name, path in found.items():
            about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            say(console, f"  {name:{width}}  {about.splitlines()[0]}")
    return 0
