"""``call``, ``get_attr`` and ``set_attr`` of vector environments whose members are sessions on a server."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

__all__ = ["SubEnvAttributes"]


class SubEnvAttributes:
    """Gymnasium's access to members, limited to the attributes known in this process.

    The environments themselves are on the server, and their attributes cannot be reached: an AttributeError reports
    that, instead of setting an attribute that has no effect.
    """

    num_envs: int

    @abstractmethod
    def _attributes_of(self, member: int) -> Mapping[str, Any]:
        """The attributes and methods of one member."""

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The attribute ``name`` of each member, called with the arguments if it is a method.

        Raises:
            AttributeError: members have no such attribute in this process.
        """
        found = [self._attribute(member, name) for member in range(self.num_envs)]
        return tuple(each(*args, **kwargs) if callable(each) else each for each in found)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The attribute ``name`` of each member."""
        return self.call(name)

    def set_attr(self, name: str, values: list[Any] | tuple[Any, ...] | Any) -> None:
        """Not supported: the environments are on the server.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(f"{name!r} cannot be set: the environments are on the server; pass it to make instead")

    def _attribute(self, member: int, name: str) -> Any:
        attributes = self._attributes_of(member)
        if name not in attributes:
            known = ", ".join(sorted(attributes))
            where = "the environments are on the server"
            raise AttributeError(f"members have no {name!r} here: {where}; available: {known}")
        return attributes[name]
