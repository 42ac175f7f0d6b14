"""Classes that a call makes, pickled as that call.

Worker processes import the classes that they host. A class made by ``as_ors_environment("FrozenLake-v1")`` stands in no
module, but the call can be made again, and makes the same class.
"""

from __future__ import annotations

import copyreg
from functools import partial
from typing import Any, ClassVar

from ors_gym_server.environment import Environment

__all__ = ["PortedEnvironment"]


class _PortedClass(type):
    """The type of such classes, by which pickle knows them."""


class PortedEnvironment(Environment, metaclass=_PortedClass):
    """The base of environments that are made by a call."""

    made_by: ClassVar[partial[Any] | None] = None


def _reduced(cls: type[PortedEnvironment]) -> str | tuple[Any, ...]:
    made_by = vars(cls).get("made_by")
    return cls.__qualname__ if made_by is None else (made_by, ())


copyreg.pickle(_PortedClass, _reduced)  # type: ignore[arg-type]
