"""When, where and with what a run was made, as its page and its records say it."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ors_gym.redaction import MASK

__all__ = ["SECRET_NAME", "command_line", "packages", "path_from", "provenance"]

SECRET_NAME = re.compile(
    r"(^|[_-])((api|access|private|model)[_-]?key|secrets?|password|passwd|credentials?|authorization|headers?)([_-]|$)"
    r"|(^|auth|access|bearer|hub|hf|refresh|id|api)[_-]?token$",
    re.IGNORECASE,
)
"""Names of settings and options whose values are shown nowhere."""

DISTRIBUTIONS = ("gymnasium", "numpy", "ray", "torch", "transformers", "trl", "vllm")
"""What else decides how a run goes, where it is in use."""


def provenance() -> Mapping[str, str]:
    """The date, the machine, the command line without what looks like a secret, and the versions."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "host": platform.node() or "unknown",
        "command": command_line(sys.argv),
        "versions": ", ".join(f"{name} {number}" for name, number in packages().items()),
    }


def packages() -> dict[str, str]:
    """The versions of ors-gym, of Python and of the packages that this process uses."""
    found = {"ors-gym": _version("ors-gym"), "python": platform.python_version()}
    found |= {name: _version(name) for name in DISTRIBUTIONS if name in sys.modules}
    return {name: number for name, number in found.items() if number}


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:  # run from its sources
        return ""


def path_from(page: str | os.PathLike[str], file: str | os.PathLike[str]) -> str:
    """The path of a file from the folder of a page, as its link; absolute where there is none, as on another drive."""
    try:
        relative = os.path.relpath(file, Path(page).parent)
    except ValueError:
        relative = os.path.abspath(file)
    return Path(relative).as_posix()


def command_line(arguments: Sequence[str]) -> str:
    """A command as a shell takes it, with the values of options whose names say that they are secret masked."""
    shown: list[str] = []
    hide = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        secret = name.startswith("-") and SECRET_NAME.search(name.lstrip("-")) is not None
        if hide and not argument.startswith("-"):
            shown.append(MASK)
        else:
            shown.append(f"{name}={MASK}" if secret and equals else argument)
        hide = secret and not equals
    return shlex.join(shown)
