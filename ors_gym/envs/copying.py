"""Copying and pickling of environments by their constructor arguments, as with Gymnasium's ``EzPickle``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from copy import copy
from dataclasses import fields
from enum import Enum
from typing import Any, Self
from urllib.parse import urlsplit

from gymnasium.envs.registration import EnvSpec

from ors_gym.redaction import Secret

__all__ = ["CopiedByArguments", "without_secrets"]

_SECRET_ARGUMENTS = ("api_key", "secrets", "client_options")


class CopiedByArguments:
    """A copy is a new environment with the same arguments and spec, which reads the server again."""

    _arguments: Mapping[str, Any]
    """The constructor's arguments; secret ones are wrapped in a :class:`~ors_gym.redaction.Secret`."""
    _spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """The arguments of ``gym.make`` or ``gym.make_vec``; secrets are wrapped in a :class:`Secret`."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = clean_spec(spec)

    @property
    @abstractmethod
    def has_begun(self) -> bool:
        """Whether an episode has started, which a copy cannot continue."""

    def __reduce__(self) -> tuple[Any, ...]:
        if self.has_begun:
            raise TypeError(
                f"cannot pickle or copy {self}: its episode belongs to this process; "
                "copy an environment before its first reset, or make another one from its spec"
            )
        return _make_again, (type(self), dict(self._arguments), self.spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        make, arguments = self.__reduce__()
        copied: Self = make(*arguments)
        return copied


def _make_again(cls: type[Any], arguments: dict[str, Any], spec: Any) -> Any:
    made = cls(**arguments)
    made.spec = spec
    return made


def without_secrets(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``gym.make`` with secrets, including a URL with a password, wrapped in a :class:`Secret`."""

    def is_secret(name: str, value: Any) -> bool:
        if name == "url":
            return isinstance(value, str) and urlsplit(value).username is not None
        return name in _SECRET_ARGUMENTS and not isinstance(value, Secret | None)

    return {name: Secret(value) if is_secret(name, value) else value for name, value in arguments.items()}


class ShareableSpec(EnvSpec):
    """The spec of an environment, serialized without secrets."""

    def to_json(self) -> str:
        """The spec as JSON without keys, secrets and client options; pass them again: ``gym.make(spec, api_key=…)``.

        Raises:
            ValueError: another argument is not JSON.
        """
        plain = copy(self)
        plain.kwargs = {name: _public(name, value) for name, value in self.kwargs.items() if _is_public(name, value)}
        try:
            return super(ShareableSpec, plain).to_json()
        except TypeError as error:
            reason = str(error)
        raise ValueError(f"the spec of {self.id} cannot be written as JSON: {reason}")


def _is_public(name: str, value: Any) -> bool:
    return name == "url" or not isinstance(value, Secret)


def _public(name: str, value: Any) -> Any:
    if not isinstance(value, Secret):
        return value.value if isinstance(value, Enum) else value
    url = urlsplit(str(value.reveal()))
    return url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()


def clean_spec(spec: EnvSpec | None) -> EnvSpec | None:
    """A copy of the spec with secrets wrapped."""
    if spec is None:
        return None
    given: dict[str, Any] = {field.name: getattr(spec, field.name) for field in fields(spec) if field.init}
    given["kwargs"] = without_secrets(spec.kwargs)
    return ShareableSpec(**given)
