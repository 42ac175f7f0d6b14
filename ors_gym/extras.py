"""One-line errors for packages of an extra that are not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["packages_of"]


@contextmanager
def packages_of(extra: str) -> Iterator[None]:
    """Context for imports that need the packages of ``ors-gym[extra]``.

    Raises:
        ModuleNotFoundError: A package is missing; the message names the extra to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if not package or package.startswith("ors_gym"):
            raise
        advice = f"the package {package} is not installed: pip install 'ors-gym[{extra}]'"
        raise ModuleNotFoundError(advice, name=package) from None
