"""The interface of a provider's API: where requests go, how a turn is encoded, how an answer is decoded. No I/O."""

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
    """A turn with the settings of its policy."""

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
    """The name of the token limit, one of :attr:`API.limits`."""
    send_reasoning: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    quirks: frozenset[str] = frozenset()
    """Known deviations of the endpoint: see :attr:`API.quirks`."""


class API(ABC):
    """A provider's API. Stateless."""

    name: ClassVar[str]
    """Selects the API: ``ChatPolicy(api=…)``, and ``NAME:MODEL`` on the command line."""
    address: ClassVar[str]
    """The URL of the provider's endpoint."""
    address_variable: ClassVar[str]
    """The environment variable for another URL, read by the command line."""
    key_variables: ClassVar[tuple[str, ...]]
    """The environment variables for the key, read by the command line."""
    version: ClassVar[str] = "/v1"
    """The path that is added to a URL without one."""
    limits: ClassVar[tuple[str, ...]]
    """Names of the token limit of a message, starting with the default."""
    default_limit: ClassVar[int | None] = None
    """The token limit of a message if none is set, for an API that requires one."""
    quirks: ClassVar[Mapping[str, re.Pattern[str]]] = {}
    """Deviations of endpoints, each with the pattern of the error that reveals it; later requests account for them."""

    def root(self, path: str) -> str:
        """The path of a URL without the part that names the call."""
        return path.rstrip("/") or self.version

    @abstractmethod
    def call(self, model: str, *, stream: bool) -> str:
        """The path and query of the call."""

    @abstractmethod
    def headers(self, key: str) -> dict[str, str]:
        """The headers that carry the key."""

    def own_headers(self) -> dict[str, str]:
        """Further headers for every request."""
        return {}

    def names(self, tools: Iterable[ToolSpec]) -> ToolNames:
        """The tools' names in a form that the API accepts."""
        return ToolNames(tools)

    @abstractmethod
    def body(self, request: Request) -> dict[str, Any]:
        """The request body."""

    @abstractmethod
    def answer(self) -> Answer:
        """An empty answer."""


class OpenAIAPI(API):
    """An API of OpenAI: one path for all models, and a bearer token."""

    address = "https://api.openai.com/v1"
    address_variable = "OPENAI_BASE_URL"
    key_variables = ("OPENAI_API_KEY",)
    path: ClassVar[str]
    """The path of the call."""

    def root(self, path: str) -> str:
        """The path of a URL, which may include the call."""
        return super().root(path.rstrip("/").removesuffix(self.path))

    def call(self, model: str, *, stream: bool) -> str:
        """The same path for every model."""
        return self.path

    def headers(self, key: str) -> dict[str, str]:
        """A bearer token."""
        return {"Authorization": f"Bearer {key}"}


def in_turns(messages: Iterable[tuple[str, list[Any]]], key: str, first: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Merge ``messages`` (a role and its parts) into alternating, non-empty turns that start with the user's.

    The parts are stored under ``key``; ``first`` is the user's part if another role starts.
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
    """The text of the leading system messages, and the other messages."""
    rest = list(messages)
    system: list[str] = []
    while rest and rest[0].role == "system":
        system.append(text_of(rest.pop(0).blocks))
    return "\n\n".join(filter(None, system)), rest


def said_blocks(message: Message) -> list[TextBlock | ImageBlock]:
    """The text and images of a message, without empty texts."""
    found = [block for block in message.blocks if isinstance(block, TextBlock | ImageBlock)]
    return [block for block in found if isinstance(block, ImageBlock) or block.text]
