"""Policies on the command line: random, a model behind an endpoint, or a custom one."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from typing import Any, NoReturn, cast

from ors_gym.cli.exits import InputError
from ors_gym.dialects import DIALECTS
from ors_gym.policies.api import API
from ors_gym.policies.apis import APIS
from ors_gym.policies.endpoint import ChatPolicy
from ors_gym.policies.policy import Policy, RandomPolicy

__all__ = ["POLICIES", "add_endpoint_options", "make_policy", "model_keys"]

LOCAL = "local"
"""The prefix of a transformers model's name or folder."""
POLICIES = f"random, {', '.join(f'{name}:MODEL' for name in APIS)}, local:MODEL, module:name"


def add_endpoint_options(parser: argparse._ActionsContainer) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add the options of a model's endpoint."""
    parser.add_argument(
        "--base-url",
        metavar="URL",
        help="the model's endpoint (default: OPENAI_BASE_URL, ANTHROPIC_BASE_URL, …, or the provider's own)",
    )
    parser.add_argument(
        "--model-key", metavar="KEY", help="the endpoint's key (default: OPENAI_API_KEY, ANTHROPIC_API_KEY, …)"
    )
    parser.add_argument(
        "--sampling",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a setting of the model, such as temperature=0.7 or max_tokens=1024; repeatable",
    )
    parser.add_argument(
        "--parser",
        choices=sorted(DIALECTS),
        help="format of the model's tool calls, for an openai: endpoint that does not parse them, or a local: model "
        "(default: parsed by the endpoint; for a local model, detected from its chat template)",
    )


def make_policy(spec: str, arguments: argparse.Namespace, option: str = "--policy") -> Policy:
    """The policy for ``spec``; ``openai:MODEL@URL`` includes its endpoint."""
    module, colon, name = spec.partition(":")
    api = APIS.get(module)
    if arguments.sampling and api is None and module != LOCAL:
        raise InputError(f"--sampling is for {option} openai:MODEL, local:MODEL and the like")
    if arguments.parser and module not in ("openai", LOCAL):
        raise InputError(f"--parser is for {option} openai:MODEL and local:MODEL")
    if spec == "random":
        return RandomPolicy(arguments.seed)
    if not (colon and name):
        others = ", ".join(f"{name}:MODEL" for name in APIS if name != "openai")
        _wrong_policy(option, spec, f"write random, openai:MODEL or module:name (or local:MODEL, {others})")
    if api is not None:
        return _chat_policy(spec, name, api, arguments, option)
    if module == LOCAL:
        return _local_policy(spec, name, arguments, option)
    if "" not in sys.path:
        sys.path.insert(0, "")  # import from the working directory, as python -m does
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        _wrong_policy(option, spec, str(error))
    makes_one = isinstance(found, type) or (callable(found) and not hasattr(found, "act"))
    made = found() if makes_one else found
    if not hasattr(made, "act"):
        _wrong_policy(option, spec, "it has no method act")
    return cast("Policy", made)


def _chat_policy(spec: str, name: str, api: API, arguments: argparse.Namespace, option: str) -> ChatPolicy:
    model, at, address = name.partition("@http")
    base_url = f"http{address}" if at else arguments.base_url or os.environ.get(api.address_variable) or api.address
    options, parser = _sampling(arguments), arguments.parser or "plain"
    key = arguments.model_key or next(iter(_keys_of(api)), None)
    try:
        return ChatPolicy(base_url, model, api=api.name, api_key=key, options=options, parser=parser)
    except ValueError as error:
        _wrong_policy(option, spec, str(error))


def _local_policy(spec: str, name: str, arguments: argparse.Namespace, option: str) -> Policy:
    sampling = _sampling(arguments)
    if "max_tokens" in sampling:  # the endpoints' name for it
        sampling["max_turn_tokens"] = sampling.pop("max_tokens")
    try:
        local = importlib.import_module("ors_gym_trl.local")  # by name: the core imports no integration
        policy = local.LocalPolicy(name, parser=arguments.parser or "auto", **sampling)
    except (ImportError, OSError, TypeError, ValueError) as error:
        _wrong_policy(option, spec, str(error))
    return cast("Policy", policy)


def _sampling(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of ``--sampling``."""
    options: dict[str, Any] = {}
    for item in arguments.sampling:
        key, equals, value = item.partition("=")
        if not equals:
            raise InputError(f"--sampling {item}: write NAME=VALUE, such as temperature=0.7")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value  # plain text
    return options


def model_keys(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Every key that may be sent to an endpoint, to be masked in records and pages."""
    known = (key for api in APIS.values() for key in _keys_of(api))
    return tuple(dict.fromkeys(filter(None, (arguments.model_key, *known))))


def _keys_of(api: API) -> list[str]:
    return [os.environ[name] for name in api.key_variables if os.environ.get(name)]


def _wrong_policy(option: str, spec: str, problem: str) -> NoReturn:
    raise InputError(f"{option} {spec}: {problem}")
