"""The APIs of model endpoints, by name."""

from __future__ import annotations

from ors_gym.policies.anthropic import AnthropicMessages
from ors_gym.policies.api import API
from ors_gym.policies.chat import ChatCompletions
from ors_gym.policies.google import GoogleGenerateContent
from ors_gym.policies.responses import Responses

__all__ = ["APIS", "api_named"]

APIS: dict[str, API] = {
    api.name: api for api in (ChatCompletions(), Responses(), AnthropicMessages(), GoogleGenerateContent())
}


def api_named(name: str) -> API:
    """The API of that name.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    if name not in APIS:
        raise ValueError(f"unknown API {name!r}; choose one of {', '.join(APIS)}")
    return APIS[name]
