"""When, where and with which versions a run was made, for its page and its records."""

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
"""Names of settings and options whose values are never shown."""

DISTRIBUTIONS = ("gymnasium", "numpy", "ray", "torch", "transformers", "trl", "vllm")
"""Packages whose versions are recorded if they are loaded."""


def provenance() -> Mapping[str, str]:
    """The date, the machine, the versions, and the command line without secrets."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "host": platform.node() or "unknown",
        "command": command_line(sys.argv),
        "versions": ", ".join(f"{name} {number}" for name, number in packages().items()),
    }


def packages() -> dict[str, str]:
    """The versions of ors-gym, Python and the loaded packages of ``DISTRIBUTIONS``."""
    found = {"ors-gym": _version("ors-gym"), "python": platform.python_version()}
    found |= {name: _version(name) for name in DISTRIBUTIONS if name in sys.modules}
    return {name: number for name, number in found.items() if number}


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:  # run from source, not installed
        return ""


def path_from(page: str | os.PathLike[str], file: str | os.PathLike[str]) -> str:
    """The link from a page to a file: relative to the page's folder, or absolute across drives."""
    try:
        relative = os.path.relpath(file, Path(page).parent)
    except ValueError:
        relative = os.path.abspath(file)
    return Path(relative).as_posix()


def command_line(arguments: Sequence[str]) -> str:
    """A command in shell syntax, with the values of secret options masked."""
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
