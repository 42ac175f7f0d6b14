"""What a policy needs of a provider's API: where requests go, how a turn is written, how an answer is read. No I/O."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ors_gym.dialects import Dialect
from ors_gym.policies.answer import Answer, Origin
from ors_gym.policies.names import ToolNames
from ors_gym.types import ImageBlock, Message, TextBlock, ToolSpec, text_of

__all__ = ["API", "OpenAIAPI", "Request", "in_turns", "said_blocks", "split_system"]


@dataclass(frozen=True)
class Request:
    """A turn, with the settings of its policy."""

    model: str
    messages: Sequence[Message]
    tools: Sequence[ToolSpec]
    names: ToolNames
    origin: Origin
    """Messages of this origin are sent back in their original form; others are rebuilt."""
    dialect: Dialect
    stream: bool = True
    max_tokens: int | None = None
    limit_name: str = "max_tokens"
    """What the limit is called, one of :attr:`API.limits`."""
    send_reasoning: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    quirks: frozenset[str] = frozenset()
    """What is known of the endpoint: see :attr:`API.quirks`."""


class API(ABC):
    """A provider's API. Stateless."""

    name: ClassVar[str]
    """Selects the API: ``ChatPolicy(api=…)``, ``NAME:MODEL`` at the command line."""
    address: ClassVar[str]
    """The provider's own endpoint."""
    address_variable: ClassVar[str]
    """The environment variable with another address, which the command line reads."""
    key_variables: ClassVar[tuple[str, ...]]
    """The environment variables with the key, which the command line reads."""
    version: ClassVar[str] = "/v1"
    """The path that is added to an address without one."""
    limits: ClassVar[tuple[str, ...]]
    """Names of the token limit of a message; the first is the default."""
    default_limit: ClassVar[int | None] = None
    """The token limit of a message where none is set, for an API that requires one."""
    quirks: ClassVar[Mapping[str, re.Pattern[str]]] = {}
    """Deviations of endpoints, each with the pattern of the error that reveals it; later requests respect it."""

    def root(self, path: str) -> str:
        """The path of an address without the part that names the call."""
        return path.rstrip("/") or self.version

    @abstractmethod
    def call(self, model: str, *, stream: bool) -> str:
        """The path, and the query, of the call that asks for an answer."""

    @abstractmethod
    def headers(self, key: str) -> dict[str, str]:
        """The headers that carry the key."""

    def own_headers(self) -> dict[str, str]:
        """Further headers of every request."""
        return {}

    def names(self, tools: Iterable[ToolSpec]) -> ToolNames:
        """The tools' names as the API accepts them."""
        return ToolNames(tools)

    @abstractmethod
    def body(self, request: Request) -> dict[str, Any]:
        """The request."""

    @abstractmethod
    def answer(self) -> Answer:
        """An answer, of which nothing has come yet."""


class OpenAIAPI(API):
    """An API of OpenAI: one path for every model, and a bearer token."""

    address = "https://api.openai.com/v1"
    address_variable = "OPENAI_BASE_URL"
    key_variables = ("OPENAI_API_KEY",)
    path: ClassVar[str]
    """The path of the call."""

    def root(self, path: str) -> str:
        """The path of an address, which may name the call too."""
        return super().root(path.rstrip("/").removesuffix(self.path))

    def call(self, model: str, *, stream: bool) -> str:
        """Always the same."""
        return self.path

    def headers(self, key: str) -> dict[str, str]:
        """A bearer token."""
        return {"Authorization": f"Bearer {key}"}


def in_turns(messages: Iterable[tuple[str, list[Any]]], key: str, first: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Merge ``messages`` (a role and its parts) into turns that alternate, the user's first, none of them empty.

    The parts are under ``key``; ``first`` is the user's part where another role begins.
    """
    wire: list[dict[str, Any]] = []
    for role, parts in messages:
        if not parts:
            continue
        if wire and wire[-1]["role"] == role:
            wire[-1][key] += parts
        else:
            wire.append({"role": role, key: parts})
    if not wire or wire[0]["role"] != "user":
        wire.insert(0, {"role": "user", key: [dict(first)]})
    return wire


def split_system(messages: Iterable[Message]) -> tuple[str, list[Message]]:
    """The text of the system messages that come first, and the rest."""
    rest = list(messages)
    system: list[str] = []
    while rest and rest[0].role == "system":
        system.append(text_of(rest.pop(0).blocks))
    return "\n\n".join(filter(None, system)), rest


def said_blocks(message: Message) -> list[TextBlock | ImageBlock]:
    """The text and the images of a message, empty texts left out."""
    found = [block for block in message.blocks if isinstance(block, TextBlock | ImageBlock)]
    return [block for block in found if isinstance(block, ImageBlock) or block.text]
