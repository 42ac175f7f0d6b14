"""Creation of the folder of a new environment.

The templates are runnable folders (``templates/game`` over ``templates/shared``, and so on) of an environment named
``MyEnvironment``. The created folder is a copy with certain words replaced.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import keyword
import re
import shutil
import sys
import tokenize
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

import gymnasium
from gymnasium.envs.registration import EnvSpec

from ors_gym_server.adapters.gymnasium import as_ors_environment

__all__ = ["ARCHETYPES", "ScaffoldError", "scaffold"]

ARCHETYPES: Mapping[str, str] = {
    "game": "a text game with several turns, won or lost",
    "sandbox": "questions that an agent answers with a shell in a sandbox",
    "vision": "images that an agent views and zooms into",
}
"""The kinds of environments to start from, each with a sentence."""

NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_][A-Za-z0-9]+)*")
MAX_NAME_LENGTH = 40
DEPENDENCIES = '["ors-gym[server]"]'
EXTRAS = {"gymnasium.envs.box2d": "box2d", "gymnasium.envs.mujoco": "mujoco"}
"""Packages of Gymnasium's own environments that need one of its extras."""


class ScaffoldError(Exception):
    """The folder cannot be written; the message says why."""


def scaffold(folder: Path, archetype: str) -> list[Path]:
    """Write the folder of an environment, named after it.

    Args:
        folder: The new or empty folder. ``code-breaker`` holds the environment ``CodeBreaker``.
        archetype: One of :data:`ARCHETYPES`, ``gym:ID`` for a Gymnasium environment, ``openenv:URL`` for the
            environment of a running OpenEnv server, or ``module:Class`` for a class of Gymnasium environments or a
            function that creates one. A module that is not installed is copied into the folder.

    Returns:
        The files that were written.

    Raises:
        ScaffoldError: the name is invalid, the folder is not empty, or the archetype or environment does not exist.
            Nothing was written.
    """
    name = folder.absolute().name
    if not NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        raise ScaffoldError(
            f"{name!r} is not a valid name for an environment: use letters and digits, with - or _ between them, "
            f"such as code-breaker; at most {MAX_NAME_LENGTH} characters, the first a letter"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ScaffoldError(f"{folder} already exists and is not empty: nothing was written")
    class_name = "".join(word[0].upper() + word[1:] for word in re.split("[-_]", name))
    words = {
        "MyEnvironment": class_name,
        "my-environment": name.lower().replace("_", "-"),
        "myenvironment": class_name.lower(),
    }
    kind, _, source = archetype.partition(":")
    copied: Path | None = None
    if kind == "gym":
        words |= {"FrozenLake-v1": source, DEPENDENCIES: _toml("ors-gym[server]", *_gym_requirements(source))}
        copied = _own_module(source.partition(":")[0]) if ":" in source else None
    elif kind == "openenv":
        _check_openenv(source)
        words |= {"http://localhost:8000": source, DEPENDENCIES: _toml("ors-gym[openenv]")}
    elif archetype == "sandbox":
        words |= {DEPENDENCIES: _toml("ors-gym[sandbox,server]")}
    elif source:
        _check_class(kind, source)
        copied = _own_module(kind)
        words |= {
            '"FrozenLake-v1"': source,
            "FrozenLake-v1": f"{kind}:{source}",
            "FrozenLake-v1 of Gymnasium": f"{source} of the module {kind}",
            "from tasks import SPLITS": f"from {kind} import {source}\nfrom tasks import SPLITS",
            DEPENDENCIES: _toml("ors-gym[server]", *_packages_of(kind)),
        }
        if source == class_name:
            raise ScaffoldError(f"{class_name} is the name of the ported class: choose another name for the folder")
        kind = "gym"
    elif archetype not in ARCHETYPES:
        raise ScaffoldError(
            f"there is no archetype {archetype!r}; choose one of {', '.join(ARCHETYPES)}, gym:ID, openenv:URL and "
            "module:Class"
        )
    texts = dict(_templates(kind))
    taken = {word for path, text in texts.items() if path.suffix == ".py" for word in _identifiers(text)} - words.keys()
    if class_name in taken:
        raise ScaffoldError(f"{class_name} is already used in the environment's code: choose another name")
    words["ABOUT"] = _with(words, texts.pop(PurePosixPath("about.md")).strip())
    for path, text in texts.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_with(words, text), encoding="utf-8")
    written = [folder / path for path in sorted(texts)]
    if copied is not None:
        written.append(folder / copied.name)
        (shutil.copytree if copied.is_dir() else shutil.copy)(copied, written[-1])
    return written


def _templates(kind: str) -> Iterator[tuple[PurePosixPath, str]]:
    """The files of the archetype. Its own come last and override shared ones."""
    root = files("ors_gym_server.scaffold") / "templates"
    for name in ("shared", kind):
        yield from _texts(root / name, PurePosixPath())


def _texts(folder: Traversable, path: PurePosixPath) -> Iterator[tuple[PurePosixPath, str]]:
    for item in folder.iterdir():
        if item.is_dir() and item.name != "__pycache__":
            yield from _texts(item, path / item.name)
        elif item.is_file():
            name = f".{item.name}" if item.name in ("dockerignore", "gitignore") else item.name
            yield path / name, item.read_text(encoding="utf-8")


def _identifiers(code: str) -> Iterator[str]:
    yield from keyword.kwlist
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.NAME:
            yield token.string


def _with(words: Mapping[str, str], text: str) -> str:
    """``text`` with all of the words replaced at once."""
    pattern = "|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words)
    return re.sub(pattern, lambda found: words[found[0]], text)


def _toml(*requirements: str) -> str:
    return "[" + ", ".join(f'"{each}"' for each in requirements) + "]"


# ------------------------------------------------------------------- environments that there are


def _gym_requirements(env_id: str) -> list[str]:
    """The packages that a Gymnasium environment needs besides Gymnasium."""
    try:
        environment = as_ors_environment(env_id)
    except (ImportError, gymnasium.error.Error, ValueError) as error:
        raise ScaffoldError(f"gym:{env_id}: {error}") from None
    source = environment.recipe.source
    entry = source.entry_point if isinstance(source, EnvSpec) else None
    module = str(entry).partition(":")[0] if entry else ""
    top = module.partition(".")[0]
    if top == "gymnasium":
        extras = [extra for package, extra in EXTRAS.items() if module.startswith(package)]
        return [f"gymnasium[{extra}]" for extra in extras]
    return _packages_of(top)


def _packages_of(module: str) -> list[str]:
    """The packages that provide the module; none for a file of the author's."""
    return importlib.metadata.packages_distributions().get(module.partition(".")[0], [])


def _own_module(module: str) -> Path | None:
    """The file or folder of a module in the working directory that no package provides."""
    top = module.partition(".")[0]
    file = Path(getattr(sys.modules.get(top), "__file__", None) or "")
    if not file.name or _packages_of(top) or Path.cwd() not in file.absolute().parents:
        return None
    return file.parent if file.name == "__init__.py" else file


def _check_class(module: str, name: str) -> None:
    """Check that a class or function creates Gymnasium environments."""
    try:
        made = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ScaffoldError(f"{module}:{name}: {error}") from None
    if isinstance(made, type) and not issubclass(made, gymnasium.Env):
        served = f"ors-gym serve {module}:{name} serves it if it is an environment"
        raise ScaffoldError(f"{module}:{name} is not a gymnasium.Env; {served}")
    try:
        as_ors_environment(made)
    except (ImportError, gymnasium.error.Error, ValueError, TypeError) as error:
        raise ScaffoldError(f"{module}:{name}: {error}") from None


def _check_openenv(url: str) -> None:
    """Check that the OpenEnv server runs."""
    if not re.fullmatch(r"https?://[\w.:/\[\]-]+", url):
        raise ScaffoldError(f"{url!r} is not a URL of an OpenEnv server, such as http://localhost:8000")
    try:
        from ors_gym_server.adapters.openenv import from_openenv

        from_openenv(url)
    except ModuleNotFoundError as error:
        raise ScaffoldError(f"openenv: needs the package {error.name}: pip install 'ors-gym[openenv]'") from None
    except (ConnectionError, ValueError) as error:
        raise ScaffoldError(f"openenv:{url}: {error}") from None
