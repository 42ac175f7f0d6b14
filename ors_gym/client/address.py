"""Where an ORS server is, and the key that it is given: a URL, or a name of the hosted catalogue.

``owner/name`` is an environment of the catalogue, ``owner/name@variant`` one of several in its deployment. The key is
by default the variable ``ORS_API_KEY``, and for the catalogue ``OPENREWARD_API_KEY`` before it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["KEY_VARIABLES", "PLATFORM", "Address", "key_from_environment", "with_key"]

PLATFORM = "https://openreward.ai"
"""The hosted platform, unless the variable ``OPENREWARD_URL`` names another; as the reference SDK has it."""

KEY_VARIABLES = ("OPENREWARD_API_KEY", "ORS_API_KEY")
"""The variables that hold keys. The first is for the hosted platform alone."""

_NAME = re.compile(r"(?P<deployment>[A-Za-z0-9_-]+/[A-Za-z0-9_.-]+)(?:@(?P<variant>[A-Za-z0-9_.-]+))?")


@dataclass(frozen=True, slots=True)
class Address:
    """A server, and the one environment on it that was named."""

    url: str
    hosted: bool = False
    env_name: str = ""
    """Empty for a URL."""

    @classmethod
    def of(cls, where: Any) -> Self:
        """What a URL or a name of the catalogue stands for; whether a URL is one is checked elsewhere.

        >>> Address.of("http://localhost:8080").env_name, Address.of("owner/name@easy").env_name
        ('', 'owner/name/easy')
        """
        match = _NAME.fullmatch(where) if isinstance(where, str) else None
        if match is None:
            return cls(where)
        variant = f"/{match['variant']}" if match["variant"] else ""
        return cls(os.environ.get("OPENREWARD_URL") or PLATFORM, True, match["deployment"] + variant)


def key_from_environment(*, hosted: bool) -> str | None:
    """The key of a server for which none was given; None where no variable holds one."""
    variables = KEY_VARIABLES if hosted else KEY_VARIABLES[1:]
    return next((key for key in map(os.environ.get, variables) if key), None)


def with_key(where: str, api_key: str | None, client_options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options of a client that is made in another process, with the key that this process gives it.

    Raises:
        ValueError: the key is among the options too.
    """
    options = dict(client_options or {})
    if api_key is not None and "api_key" in options:
        raise ValueError("api_key is given twice: by itself and in client_options")
    given = "api_key" in options or any(name.lower() == "x-api-key" for name in options.get("headers") or ())
    if api_key is None and not given:
        api_key = key_from_environment(hosted=Address.of(where).hosted or bool(options.get("hosted")))
    return options if api_key is None else {**options, "api_key": api_key}
