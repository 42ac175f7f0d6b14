"""The hosted platform's layout: deployments and their variants, two hosts, and the secrets it wants to be sent.

A name is ``owner/name``, a deployment, or ``owner/name/variant``: one of the environments in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from ors_gym.types.shapes import required, sequence

__all__ = [
    "CATALOGUE",
    "platform_secrets",
    "read_catalogue",
    "read_secret_names",
    "secrets_path",
    "split_deployment",
    "with_subdomain",
]

CATALOGUE = "/v1/environments"
"""Where the platform lists its environments."""

SERVICES = ("sessions", "api", "search")
"""The platform's own hosts that an environment may send the client's key to."""

DOMAINS: Mapping[str, tuple[str, ...]] = {
    "OPENAI_API_KEY": ("api.openai.com",),
    "ANTHROPIC_API_KEY": ("api.anthropic.com",),
    "GEMINI_API_KEY": ("generativelanguage.googleapis.com",),
    "GOOGLE_API_KEY": ("generativelanguage.googleapis.com",),
    "TAVILY_API_KEY": ("api.tavily.com",),
    "COHERE_API_KEY": ("api.cohere.com",),
    "MISTRAL_API_KEY": ("api.mistral.ai",),
    "GROQ_API_KEY": ("api.groq.com",),
    "TOGETHER_API_KEY": ("api.together.xyz",),
    "REPLICATE_API_TOKEN": ("api.replicate.com",),
    "HUGGINGFACE_API_KEY": ("api-inference.huggingface.co", "huggingface.co"),
    "HF_TOKEN": ("huggingface.co", "api-inference.huggingface.co"),
    "HUGGING_FACE_HUB_TOKEN": ("huggingface.co", "api-inference.huggingface.co"),
    "PERPLEXITY_API_KEY": ("api.perplexity.ai",),
    "FIREWORKS_API_KEY": ("api.fireworks.ai",),
    "DEEPSEEK_API_KEY": ("api.deepseek.com",),
    "KAGGLE_KEY": ("www.kaggle.com",),
    "KAGGLE_USERNAME": ("www.kaggle.com",),
    "KAGGLE_API_KEY": ("www.kaggle.com",),
    "E2B_API_KEY": ("api.e2b.app",),
    "MODAL_TOKEN_ID": ("api.modal.com",),
    "MODAL_TOKEN_SECRET": ("api.modal.com",),
    "DAYTONA_API_KEY": ("app.daytona.io",),
    "GH_AUTH_TOKEN": (
        "github.com", "api.github.com", "uploads.github.com", "objects.githubusercontent.com",
        "raw.githubusercontent.com",
    ),
}  # fmt: skip
"""Where the platform lets well-known secrets be sent to, as the reference SDK has it."""


def with_subdomain(url: str, name: str) -> str:
    """``url`` with another label before its host."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{name}.{parts.netloc}"))


def split_deployment(env_name: str) -> tuple[str, str]:
    """The deployment of an environment's name, and the variant in it; empty where none is named.

    >>> split_deployment("owner/name"), split_deployment("owner/name/variant")
    (('owner/name', ''), ('owner/name', 'variant'))
    """
    owner, slash, rest = env_name.partition("/")
    name, _, variant = rest.partition("/")
    return f"{owner}{slash}{name}", variant


def secrets_path(deployment: str) -> str | None:
    """The path that names the secrets which a deployment requires; None for one without an owner."""
    owner, slash, name = deployment.partition("/")
    return f"/v1/environments/{quote(owner, safe='')}/{quote(name, safe='')}/required-secrets" if slash else None


def read_secret_names(wire: Any) -> tuple[str, ...]:
    """The answer at :func:`secrets_path`."""
    return tuple(str(name) for name in sequence(required(wire, "secrets", "required secrets"), "required secrets"))


def read_catalogue(wire: Any) -> tuple[tuple[str, str], ...]:
    """The answer at :data:`CATALOGUE`: names, and descriptions."""
    listed = sequence(required(wire, "environments", "catalogue"), "catalogue")
    return tuple(
        (f"{required(one, 'owner', 'environment')}/{required(one, 'name', 'environment')}",
         str(one.get("description") or ""))
        for one in listed
    )  # fmt: skip


def platform_secrets(
    secrets: Mapping[str, Any], api_key: str | None, url: str
) -> Mapping[str, str | tuple[str, Sequence[str]]]:
    """Secrets as the platform wants them: with the domains that each may be sent to, and the client's key among them.

    Raises:
        ValueError: a secret comes without domains, and its name is not among the well-known ones.
    """
    told: dict[str, Any] = {}
    for name, secret in secrets.items():
        domains = DOMAINS.get(str(name).upper())
        if not isinstance(secret, str):
            told[name] = secret
        elif domains is None:
            raise ValueError(
                f"the hosted platform must know where the secret {name!r} may be sent to: "
                f"give a pair, {name!r}: (value, ['api.example.com'])"
            )
        else:
            told[name] = (secret, list(domains))
    if api_key is not None:
        host = urlsplit(url).hostname or ""
        domains = (
            *(f"{service}.{host}" for service in SERVICES),
            *(f"{service}.openreward.internal" for service in SERVICES),
        )
        for name in ("api_key", "OPENREWARD_API_KEY"):
            told.setdefault(name, (api_key, list(domains)))
    return told
