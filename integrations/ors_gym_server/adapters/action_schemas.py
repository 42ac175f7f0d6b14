"""Gymnasium spaces as JSON Schemas, and JSON values as their elements.

For every kind of space, :func:`schema_of` returns the JSON Schema of the values that :func:`decode` accepts, and
:func:`describe` describes it in words. A schema cannot express everything (such as that a float32 must be finite), so
decoded values are finally checked by the space itself; see :mod:`ors_gym_server.adapters.action_tools`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import NDArray

from ors_gym.spaces import TextSpace

__all__ = ["UnsupportedSpaceError", "components", "decode", "describe", "list_schema", "object_schema", "schema_of"]

_LONGEST_LIST = 64
"""Arrays with more rows than this share one schema for all rows, with the widest bounds."""


class UnsupportedSpaceError(TypeError):
    """A space of a kind without a JSON form."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__(space)
        self.space = space

    def __str__(self) -> str:
        kinds = "Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict, Tuple, OneOf, Sequence and Graph"
        return (
            f"an action space of type {type(self.space).__name__} cannot be written as JSON; {kinds} can. "
            "Wrap the environment in a gymnasium.ActionWrapper that has one of these"
        )


def schema_of(space: spaces.Space[Any]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of the space's elements.

    Arrays are nested lists. A graph is an object of ``nodes`` and ``edges``, each edge an object of ``from``, ``to``
    and ``value``; an element of a OneOf is an object of ``option`` and ``value``.
    """
    match space:
        case spaces.Discrete():
            return {"type": "integer", "minimum": int(space.start), "maximum": int(space.start + space.n - 1)}
        case spaces.Box() | spaces.MultiDiscrete() | spaces.MultiBinary():
            return _array_schema(*_limits(space))
        case spaces.Text():
            lengths = {"type": "string", "minLength": space.min_length, "maxLength": space.max_length}
            return lengths | {"pattern": f"^[{_escaped(space.characters)}]*$"}
        case TextSpace():
            most = {} if space.max_length is None else {"maxLength": space.max_length}
            return {"type": "string"} | ({"minLength": space.min_length} if space.min_length else {}) | most
        case spaces.Dict():
            return object_schema({str(key): schema_of(value) for key, value in space.spaces.items()})
        case spaces.Tuple():
            return list_schema([schema_of(part) for part in space.spaces])
        case spaces.OneOf():
            options = [
                object_schema({"option": {"const": number}, "value": schema_of(option)})
                for number, option in enumerate(space.spaces)
            ]
            return {"oneOf": options}
        case spaces.Sequence():
            return {"type": "array", "items": schema_of(space.feature_space)}
        case spaces.Graph():
            nodes = {"nodes": {"type": "array", "items": schema_of(space.node_space), "minItems": 1}}
            if space.edge_space is None:
                return object_schema(nodes)
            node = {"type": "integer", "minimum": 0}
            edge = object_schema({"from": node, "to": node, "value": schema_of(space.edge_space)})
            return object_schema(nodes | {"edges": {"type": "array", "items": edge}})
        case _:
            raise UnsupportedSpaceError(space)


def decode(space: spaces.Space[Any], value: Any) -> Any:
    """The element of the space for ``value``, which must match the space's schema.

    Raises:
        ValueError, OverflowError: the space's dtype cannot represent it.
    """
    match space:
        case spaces.Discrete():
            return space.dtype.type(int(value))
        case spaces.MultiDiscrete() | spaces.MultiBinary() | spaces.Box():
            return _array(value, space.dtype)
        case spaces.Dict():
            return {key: decode(part, value[str(key)]) for key, part in space.spaces.items()}
        case spaces.Tuple():
            return tuple(decode(part, item) for part, item in zip(space.spaces, value, strict=True))
        case spaces.OneOf():
            option = int(value["option"])
            return np.int64(option), decode(space.spaces[option], value["value"])
        case spaces.Sequence():
            items = [decode(space.feature_space, item) for item in value]
            return _stacked(space.feature_space, items) if space.stack else tuple(items)
        case spaces.Graph():
            nodes = _stacked(space.node_space, [decode(space.node_space, node) for node in value["nodes"]])
            if space.edge_space is None or not value["edges"]:
                return spaces.GraphInstance(nodes, None, None)
            edges = _stacked(space.edge_space, [decode(space.edge_space, edge["value"]) for edge in value["edges"]])
            links = _array([(edge["from"], edge["to"]) for edge in value["edges"]], np.dtype(np.int32))
            return spaces.GraphInstance(nodes, edges, links)
        case _:
            return value


def describe(space: spaces.Space[Any]) -> str:
    """A noun phrase for the elements of the space: ``an integer from 0 to 3``."""
    match space:
        case spaces.Discrete():
            return f"an integer from {space.start} to {space.start + space.n - 1}"
        case spaces.Box() | spaces.MultiDiscrete() | spaces.MultiBinary():
            return _describe_array(*_limits(space))
        case spaces.Text():
            few = len(space.characters) <= _LONGEST_LIST
            characters = f"of the characters {space.characters!r}" if few else f"of {len(space.characters)} characters"
            return f"text of {space.min_length} to {space.max_length} {characters}"
        case TextSpace():
            least = f"at least {space.min_length}" if space.min_length else ""
            most = "" if space.max_length is None else f"at most {space.max_length}"
            bounds = " and ".join(bound for bound in (least, most) if bound)
            return f"any text of {bounds} characters" if bounds else "any text"
        case spaces.Dict():
            parts = (f"{key}: {describe(part)}" for key, part in space.spaces.items())
            return f"an object of {'; '.join(parts)}"
        case spaces.Tuple():
            return f"a list of {'; '.join(map(describe, space.spaces))}"
        case spaces.OneOf():
            parts = (f"option {number}: {describe(part)}" for number, part in enumerate(space.spaces))
            return f"one of {'; '.join(parts)}"
        case spaces.Sequence():
            return f"a list, of any length, of {describe(space.feature_space)}"
        case spaces.Graph():
            nodes = f"a graph whose nodes are each {describe(space.node_space)}"
            if space.edge_space is None:
                return nodes
            return f"{nodes}, with edges from node number to node number, each of value {describe(space.edge_space)}"
        case _:
            raise UnsupportedSpaceError(space)


def object_schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    """An object with exactly these properties."""
    schema = {"type": "object", "properties": dict(properties), "required": list(properties)}
    return schema | {"additionalProperties": False}


def list_schema(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A list whose items have these schemas in order."""
    places = {"prefixItems": items} if items else {}
    return {"type": "array"} | places | {"minItems": len(items), "maxItems": len(items)}


def _number_schema(low: Any, high: Any, kind: str) -> dict[str, Any]:
    """A number of JSON type ``kind`` between two bounds of a NumPy type, either of which may be infinite.

    A float32 bound has two decimal forms: the exact 0.4000000059604645 and the short 0.4 that parses to it. The wider
    one is used, so that both are allowed.
    """
    schema: dict[str, Any] = {"type": kind}
    if kind == "boolean":
        return schema
    if np.isfinite(low):
        schema["minimum"] = min(_plain(low), low.item())
    if np.isfinite(high):
        schema["maximum"] = max(_plain(high), high.item())
    return schema


def _plain(bound: Any) -> int | float:
    exact = isinstance(bound, np.integer) or (abs(float(bound)) < 2**53 and float(bound).is_integer())
    return int(bound) if exact else float(str(bound))


ArraySpace: TypeAlias = "spaces.Box[Any] | spaces.MultiDiscrete[Any] | spaces.MultiBinary"


def components(space: ArraySpace) -> list[tuple[dict[str, Any], str]]:
    """The schema of each component of a list, and its description."""
    low, high, kind = _limits(space)
    pairs = list(zip(low, high, strict=True))
    return [(_number_schema(below, above, kind), _describe_number(below, above, kind)) for below, above in pairs]


def _limits(space: ArraySpace) -> tuple[NDArray[Any], NDArray[Any], str]:
    """The smallest and largest elements, and the JSON type of a number."""
    match space:
        case spaces.MultiDiscrete():
            return space.start, space.start + space.nvec - 1, "integer"
        case spaces.MultiBinary():
            return np.zeros(space.shape, int), np.ones(space.shape, int), "integer"
        case _:
            return space.low, space.high, {"f": "number", "b": "boolean"}.get(space.dtype.kind, "integer")


def _escaped(characters: str) -> str:
    return re.sub(r"([\]\[^\\-])", r"\\\1", characters)


def _array_schema(low: NDArray[Any], high: NDArray[Any], kind: str) -> dict[str, Any]:
    if low.ndim == 0:
        return _number_schema(low[()], high[()], kind)
    size = len(low)
    if _uniform(low) and _uniform(high):
        rows: dict[str, Any] = {"type": "array", "items": _array_schema(low[0], high[0], kind)} if size else {}
        return {"type": "array"} | rows | {"minItems": size, "maxItems": size}
    if size <= _LONGEST_LIST:
        return list_schema([_array_schema(low[row], high[row], kind) for row in range(size)])
    items = _array_schema(low.min(axis=0), high.max(axis=0), kind)
    return {"type": "array", "items": items, "minItems": size, "maxItems": size}


def _uniform(bounds: NDArray[Any]) -> bool:
    return bool(np.all(bounds == bounds[:1]))


def _describe_array(low: NDArray[Any], high: NDArray[Any], kind: str) -> str:
    if low.ndim == 0:
        return _describe_number(low[()], high[()], kind)
    if low.size and _uniform(low.reshape(-1)) and _uniform(high.reshape(-1)):
        number = _describe_number(low.flat[0], high.flat[0], kind)
        if low.ndim == 1:
            return f"a list of {low.size}, each {number}"
        return f"nested lists of shape {low.shape}, each number {number}"
    if low.ndim == 1 and low.size <= _LONGEST_LIST:
        numbers = (_describe_number(below, above, kind) for below, above in zip(low, high, strict=True))
        return f"a list of {low.size}: {'; '.join(numbers)}"
    return f"nested lists of shape {low.shape}, of {kind}s within the bounds of the schema"


def _describe_number(low: Any, high: Any, kind: str) -> str:
    """``a number from -2 to 2``, without infinite bounds."""
    if kind == "boolean":
        return "true or false"
    noun = "an integer" if kind == "integer" else "a number"
    match bool(np.isfinite(low)), bool(np.isfinite(high)):
        case True, True:
            return f"{noun} from {_plain(low)} to {_plain(high)}"
        case True, False:
            return f"{noun} of at least {_plain(low)}"
        case False, True:
            return f"{noun} of at most {_plain(high)}"
        case _:
            return noun


def _array(value: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        array = np.asarray(value, dtype=dtype)
    if not np.all(np.isfinite(array)):
        raise ValueError(f"a number is not finite as {dtype}")
    return array


def _stacked(space: spaces.Space[Any], items: list[Any]) -> Any:
    empty: Any = create_empty_array(space, len(items))
    return concatenate(space, items, empty) if items else empty
