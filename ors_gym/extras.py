"""Packages that come with an extra, named where they are missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["packages_of"]


@contextmanager
def packages_of(extra: str) -> Iterator[None]:
    """Import within it what needs the packages of ``ors-gym[extra]``.

    Raises:
        ModuleNotFoundError: One is not installed. It says which extra to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if not package or package.startswith("ors_gym"):
            raise
        advice = f"the package {package} is not installed: pip install 'ors-gym[{extra}]'"
        raise ModuleNotFoundError(advice, name=package) from None
