"""A Gymnasium action space as tools for a model, and their calls as actions.

Named elements are called by name: the values of a Discrete space (``left``, ``right``), the components of a list
(``steer``, ``gas``, ``brake``), the parts of a Tuple, the options of a OneOf. Others have the JSON form of their space
(:mod:`ors_gym_server.adapters.action_schemas`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import spaces
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from ors_gym.spaces import TextSpace
from ors_gym.types import ToolSpec
from ors_gym_server.adapters.action_schemas import components, decode, describe, object_schema, schema_of

__all__ = ["ActionTools", "InvalidActionError"]


class InvalidActionError(ValueError):
    """A call that is not an action of the space; ``reason`` is the standard's."""

    def __init__(self, message: str, reason: str = "input_validation") -> None:
        super().__init__(message, reason)
        self.message, self.reason = message, reason

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class _Form:
    """The form of a space in a tool's input: the arguments' schemas, their description, and the decoder."""

    properties: Mapping[str, Any]
    allowed: str
    decode: Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class _ActionTool:
    spec: ToolSpec
    form: _Form
    validator: Draft202012Validator


class ActionTools:
    """The tools of an action space.

    Args:
        space: Any Gymnasium space, possibly nested.
        names: Names of a Discrete space's values, in order; of the components of a list (one-dimensional Box,
            MultiDiscrete or MultiBinary); of a Tuple's parts; of a OneOf's options; of the one argument of another
            space.
        tool_name: The name of the tool that steps the environment.
        description: The start of each tool's description.
        tool_per_action: Named values of a Discrete space become tools without arguments, instead of one tool with the
            name as its argument.
        examples: Of texts, where an action is one: agents read them, and random policies play them.

    Raises:
        ValueError: The names do not fit the space.
        UnsupportedSpaceError: The space is not one of Gymnasium's kinds.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        names: Sequence[str] | None = None,
        *,
        tool_name: str = "step",
        description: str = "Take one step in the environment.",
        tool_per_action: bool = False,
        examples: Sequence[str] = (),
    ) -> None:
        if names is not None:
            _check_names(space, names)
        if examples and not isinstance(space, spaces.Text | TextSpace):
            raise ValueError(f"examples are of actions that are texts, not of {space}")
        unfit = next((each for each in examples if not space.contains(each)), None)
        if unfit is not None:
            raise ValueError(f"the example {unfit!r} is no action: {describe(space)}")
        self.space, self.names = space, None if names is None else tuple(names)
        self._tools: dict[str, _ActionTool] = {}
        match space:
            case spaces.Discrete() if names is not None and tool_per_action:
                for number, name in enumerate(names):
                    form = _Form({}, f"{name!r}", _constant(space, number))
                    self._add(_identifier(name), f"{description} Action: {name}.", form)
            case spaces.OneOf():
                for number, option in enumerate(space.spaces):
                    form = _option(number, _form(option, None))
                    name = f"option_{number}" if names is None else names[number]
                    self._add(_identifier(name), description, form)
            case _:
                if tool_per_action:
                    raise ValueError(f"one tool per action needs a Discrete action space with names, not {space}")
                form = _form(space, names)
                if examples:
                    properties = {name: {**part, "examples": list(examples)} for name, part in form.properties.items()}
                    form = replace(form, properties=properties)
                self._add(tool_name, description, form)

    def _add(self, name: str, description: str, form: _Form) -> None:
        if name in self._tools:
            raise ValueError(f"two actions would become the tool {name!r}")
        schema = object_schema(form.properties) if form.properties else None
        validator = Draft202012Validator(object_schema(form.properties))
        self._tools[name] = _ActionTool(ToolSpec(name, description, schema), form, validator)

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools as shown to an agent."""
        return tuple(tool.spec for tool in self._tools.values())

    def action(self, name: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """The element of the space for a call.

        Raises:
            InvalidActionError: The call is not an action; the message describes the allowed ones.
        """
        tool = self._tools.get(name)
        if tool is None:
            raise InvalidActionError(f"There is no tool {name!r}; there is {', '.join(self._tools)}.", "not_found")
        allowed = f"{name} takes {tool.form.allowed}" if tool.form.properties else f"{name} takes no arguments"
        error = best_match(tool.validator.iter_errors(arguments or {}))
        if error is not None:
            place = "".join(f" in {part!r}" if number == 0 else f"[{part!r}]" for number, part in enumerate(error.path))
            raise InvalidActionError(f"Not an action{place}: {error.message}. {allowed}.")
        try:
            action = tool.form.decode(arguments or {})
        except (ValueError, OverflowError) as error:
            raise InvalidActionError(f"Not an action: {error}. {allowed}.") from None
        if not self.space.contains(action):
            raise InvalidActionError(f"Not an action: outside of {self.space}. {allowed}.")
        return action


def names_fit(space: spaces.Space[Any], names: Sequence[str]) -> bool:
    """Whether the number of names equals that of the space's values, components, parts or options."""
    match space:
        case spaces.Discrete():
            return bool(len(names) == space.n)
        case spaces.Box() | spaces.MultiDiscrete() | spaces.MultiBinary() if len(space.shape) == 1:
            return len(names) == space.shape[0]
        case spaces.Tuple() | spaces.OneOf():
            return len(names) == len(space.spaces)
        case spaces.Dict():
            return False
        case _:
            return len(names) == 1


def _check_names(space: spaces.Space[Any], names: Sequence[str]) -> None:
    if not names_fit(space, names):
        raise ValueError(f"{len(names)} action names ({', '.join(names)}) do not fit the action space {space}")
    if len(set(names)) < len(names):
        raise ValueError(f"two actions have the same name: {', '.join(names)}")


def _identifier(name: str) -> str:
    """The name in the form of model APIs' tool names: at most 64 letters, digits, ``_`` and ``-``."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:64] or "action"


def _form(space: spaces.Space[Any], names: Sequence[str] | None) -> _Form:
    match space:
        case spaces.Discrete() if names is not None:
            allowed = f"one of {', '.join(names)}"
            values = dict(zip(names, range(len(names)), strict=True))
            schema = {"type": "string", "enum": list(names)}
            return _Form({"action": schema}, allowed, lambda given: _value(space, values[given["action"]]))
        case spaces.Dict():
            properties = {str(key): _described(part) for key, part in space.spaces.items()}
            allowed = "; ".join(f"{key}: {describe(part)}" for key, part in space.spaces.items())
            return _Form(properties, allowed or "nothing", lambda given: decode(space, given))
        case spaces.Tuple() if names is not None:
            parts = dict(zip(names, space.spaces, strict=True))
            properties = {name: _described(part) for name, part in parts.items()}
            allowed = "; ".join(f"{name}: {describe(part)}" for name, part in parts.items())
            return _Form(properties, allowed, lambda given: decode(space, [given[name] for name in parts]))
        case spaces.Box() | spaces.MultiDiscrete() | spaces.MultiBinary() if (
            names is not None and len(space.shape) == 1
        ):
            schemas, texts = zip(*components(space), strict=True)
            properties = {
                name: schema | {"description": _sentence(text)}
                for name, schema, text in zip(names, schemas, texts, strict=True)
            }
            allowed = "; ".join(f"{name}: {text}" for name, text in zip(names, texts, strict=True))
            return _Form(properties, allowed, lambda given: decode(space, [given[name] for name in names]))
        case _:
            name = "action" if names is None else names[0]
            return _Form({name: _described(space)}, describe(space), lambda given: decode(space, given[name]))


def _described(space: spaces.Space[Any]) -> dict[str, Any]:
    return schema_of(space) | {"description": _sentence(describe(space))}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _option(number: int, form: _Form) -> _Form:
    return _Form(form.properties, form.allowed, lambda given: (np.int64(number), form.decode(given)))


def _constant(space: spaces.Discrete[Any], number: int) -> Callable[[Mapping[str, Any]], Any]:
    return lambda given: _value(space, number)


def _value(space: spaces.Discrete[Any], number: int) -> Any:
    return space.dtype.type(space.start + number)
