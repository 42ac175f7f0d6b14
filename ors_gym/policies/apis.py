"""The APIs that a policy can ask a model by, by name."""

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

    Raises ValueError, with the names there are, for another name.
    """
    if name not in APIS:
        raise ValueError(f"no API is called {name!r}; there are {', '.join(APIS)}")
    return APIS[name]
