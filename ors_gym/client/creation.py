"""The request to ``/create``, in the form that the server accepts, which is found once for each server.

Secrets go into the body, as in the specification and the package ``ors-sdk``, or into the header ``X-Secrets`` if the
server refuses that, as the reference server does. A task is named by split and index, or sent whole to servers without
indices.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from ors_gym.client.arguments import check_type
from ors_gym.errors import ORSError, StatusError
from ors_gym.redaction import Redactor
from ors_gym.types import Task

__all__ = ["Creation", "CreationForm", "Secrets", "check_secrets"]

Secrets: TypeAlias = "Mapping[str, str | tuple[str, Sequence[str]]]"
"""Values by name, or pairs of a value and the domains that it may be sent to."""

REFUSALS = (400, 413, 422, 431)
"""Statuses with which servers and proxies refuse a form."""


@dataclass(frozen=True, slots=True)
class CreationForm:
    """The form of ``/create`` that one server accepts."""

    secrets_in_header: bool = False
    by_task: bool = False


class Creation:
    """The content of one session's ``/create``.

    Args:
        source: ``split`` and ``index``, or ``task_spec``.
        secrets: the environment's secrets.
        toolset: the name of a set of tools in addition to the environment's.
    """

    def __init__(self, source: Mapping[str, Any], secrets: Secrets | None, toolset: str | None) -> None:
        self.source = source
        self.toolset = toolset
        self._values: dict[str, str] = {}
        wire: dict[str, dict[str, Any]] = {}
        check_secrets(secrets)
        for name, secret in (secrets or {}).items():
            value, domains = (secret, None) if isinstance(secret, str) else _pair(secret)
            entry: dict[str, Any] = (
                {"value": value} if domains is None else {"value": value, "allowed_domains": domains}
            )
            self._values[str(name)], wire[str(name)] = value, entry
        self._header = base64.b64encode(json.dumps(wire).encode()).decode() if wire else ""
        self._has_domains = any("allowed_domains" in each for each in wire.values())
        self.redact = Redactor([self._header, *self._values.values()])

    @property
    def secret_names(self) -> Collection[str]:
        """The names of the secrets."""
        return self._values.keys()

    @property
    def headers(self) -> Mapping[str, str]:
        """The header that carries the secrets."""
        return {"X-Secrets": self._header} if self._header else {}

    async def send(
        self,
        post: Callable[[Mapping[str, Any], Mapping[str, str]], Awaitable[None]],
        form: CreationForm,
        find_task: Callable[[str, int], Awaitable[Task]],
    ) -> CreationForm:
        """Call ``post(body, headers)``, in another form if one is refused; returns the accepted form.

        Raises:
            ORSError: the last form was refused too.
        """
        if self._has_domains:  # only the header carries them
            form = replace(form, secrets_in_header=True)
        while True:
            try:
                await post(*await self._written(form, find_task))
                return form
            except ORSError as error:
                other = self._other(form, error)
                if other is None:
                    raise
                form = other

    async def _written(
        self, form: CreationForm, find_task: Callable[[str, int], Awaitable[Task]]
    ) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        body: dict[str, Any] = dict(self.source)
        if form.by_task and "index" in body:
            body = {"task_spec": dict(await find_task(body["split"], body["index"]))}
        if self.toolset is not None:
            body["toolset_name"] = self.toolset
        if not self._values:
            return body, {}
        if form.secrets_in_header:
            return body, self.headers
        return body | {"secrets": self._values}, {}

    def _other(self, form: CreationForm, refused: ORSError) -> CreationForm | None:
        """The next form to try."""
        if not isinstance(refused, StatusError) or refused.status not in REFUSALS or _exists(refused):
            return None
        if "index" in self.source and not form.by_task and "task_spec" in refused.detail:
            return replace(form, by_task=True)
        if self._values and not form.secrets_in_header:
            return replace(form, secrets_in_header=True)
        return None


def _exists(refused: StatusError) -> bool:
    return "already exists" in refused.detail.lower()


def check_secrets(secrets: object) -> None:
    """Check secrets.

    Raises:
        ValueError: the message contains no secret.
    """
    check_type("secrets", secrets, Mapping, what="a mapping of names to text")
    entries: Mapping[Any, Any] = secrets or {}  # type: ignore[assignment]  # pyright: ignore
    for name, secret in entries.items():
        if not isinstance(name, str):
            raise ValueError(f"the name of a secret must be text, got {type(name).__name__}")
        if not isinstance(secret, str):
            _pair(secret)


def _pair(secret: Any) -> tuple[str, list[str]]:
    if not isinstance(secret, tuple | list) or len(secret) != 2 or not isinstance(secret[0], str):  # pyright: ignore
        raise ValueError("a secret is text, or a pair of text and the domains that it may be sent to")
    value, domains = secret  # pyright: ignore[reportUnknownVariableType]
    return value, [str(domain) for domain in domains]  # pyright: ignore
