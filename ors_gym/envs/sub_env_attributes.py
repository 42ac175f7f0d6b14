"""``call``, ``get_attr`` and ``set_attr`` of vector environments whose members are sessions on a server."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

__all__ = ["SubEnvAttributes"]


class SubEnvAttributes:
    """What Gymnasium's vector environments offer of their members, for what this process knows of them.

    The environments themselves are on the server, and none of their attributes can be reached: an AttributeError says
    so, where an attribute that is set here and read by no one would not.
    """

    num_envs: int

    @abstractmethod
    def _attributes_of(self, member: int) -> Mapping[str, Any]:
        """The attributes and methods of one member."""

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The attribute ``name`` of each member, called with the arguments where it is a method.

        Raises:
            AttributeError: members have no such attribute here.
        """
        found = [self._attribute(member, name) for member in range(self.num_envs)]
        return tuple(each(*args, **kwargs) if callable(each) else each for each in found)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The attribute ``name`` of each member."""
        return self.call(name)

    def set_attr(self, name: str, values: list[Any] | tuple[Any, ...] | Any) -> None:
        """Refused: what could be set is on the server.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(f"{name!r} cannot be set: the environments are on the server; arguments are given to make")

    def _attribute(self, member: int, name: str) -> Any:
        attributes = self._attributes_of(member)
        if name not in attributes:
            known = ", ".join(sorted(attributes))
            raise AttributeError(f"members have no {name!r} here: the environments are on the server; there is {known}")
        return attributes[name]
