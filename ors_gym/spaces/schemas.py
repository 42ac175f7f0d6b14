"""JSON Schemas, drawn from and checked against.

What :meth:`Schema.sample` draws, :meth:`Schema.is_valid` accepts: a draw is directed by the schema's keywords and then
checked by `jsonschema`, so keywords that do not direct it (``not``, ``if``, ``contains``, …) hold all the same. Draws
depend on the random generator alone, not on the process.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias, cast

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from referencing import Registry

from ors_gym.spaces.scalars import NoDrawError, draw_number, draw_pattern, draw_string
from ors_gym.types.shapes import JSONObject

__all__ = ["Schema"]

_Node: TypeAlias = Mapping[str, Any]

_ATTEMPTS = 100
_DEEP = 3
"""Below this depth only what the schema asks for is drawn."""
_TOO_DEEP = 12
"""Below this depth a branch is given up, so that recursive schemas end."""


class Schema:
    """A JSON Schema of a tool's input; None is a tool without arguments: any object will do, ``{}`` is drawn."""

    def __init__(self, document: JSONObject | None) -> None:
        self.document: JSONObject = {"type": "object"} if document is None else document
        self._uses_examples = True

    def is_valid(self, value: Any) -> bool:
        """Whether the schema allows ``value``. Formats are annotations, as the standard has it: not checked.

        Raises ValueError for a document that is no JSON Schema, or has a pattern that Python does not understand.
        """
        try:
            return bool(self._validator.is_valid(value))
        except re.error as error:
            raise ValueError(f"the schema's pattern {error.pattern!r} is not understood: {error}") from None

    def sample(self, rng: random.Random) -> Any:
        """Draw a value that the schema allows; raises ValueError where none was found.

        A text is one of its examples, if it has any: few texts mean something, and nothing else says which.
        """
        for attempt in range(_ATTEMPTS):
            self._uses_examples = attempt < _ATTEMPTS // 2  # they may be wrong
            try:
                value = self._draw(self.document, rng, 0)
            except NoDrawError:
                continue
            if self.is_valid(value):
                return value
        raise ValueError(f"no value found for the schema {json.dumps(self.document, default=str)} in {_ATTEMPTS} draws")

    @cached_property
    def _validator(self) -> Any:
        validator: Any = validator_for(self.document, default=Draft202012Validator)
        try:
            # Without formats: a pattern in another dialect than Python's is still a schema.
            validator.check_schema(self.document, format_checker=FormatChecker(()))
        except SchemaError as error:
            raise ValueError(f"this is no JSON Schema: {error.message}") from None
        # An empty registry keeps references to other documents from being fetched.
        registry: Registry[Any] = Registry()
        return validator(self.document, registry=registry)

    def _draw(self, schema: Any, rng: random.Random, depth: int) -> Any:
        if schema is False or depth > _TOO_DEEP:
            raise NoDrawError
        node = self._flat({} if schema is True else schema)
        for keyword in ("anyOf", "oneOf"):
            if keyword in node:
                rest = {key: value for key, value in node.items() if key != keyword}
                return self._draw_first([_merge(rest, branch) for branch in _branches(node[keyword])], rng, depth)
        if "const" in node:
            return node["const"]
        if "enum" in node:
            return rng.choice(_drawable(node["enum"]))
        if "default" in node and rng.random() < 0.2:
            return node["default"]
        examples: Sequence[Any] = node["examples"] if isinstance(node.get("examples"), list) else ()
        if self._uses_examples and node.get("type") == "string" and examples:
            return rng.choice(examples)
        return self._draw_first([{**node, "type": kind} for kind in _types(node)], rng, depth, self._draw_typed)

    def _draw_first(
        self,
        branches: Sequence[_Node],
        rng: random.Random,
        depth: int,
        draw: Callable[[_Node, random.Random, int], Any] | None = None,
    ) -> Any:
        """Draw from one branch, or from another where that one gives nothing."""
        for branch in rng.sample(branches, len(branches)):
            try:
                return (draw or self._draw)(branch, rng, depth + (draw is None))
            except NoDrawError:
                continue
        raise NoDrawError

    def _draw_typed(self, node: _Node, rng: random.Random, depth: int) -> Any:
        match node["type"]:
            case "object":
                return self._draw_object(node, rng, depth)
            case "array":
                return self._draw_array(node, rng, depth)
            case "string":
                return draw_string(node, rng)
            case "integer" | "number":
                return draw_number(node, rng)
            case "boolean":
                return rng.random() < 0.5
            case "null":
                return None
            case _:
                raise NoDrawError

    def _draw_object(self, node: _Node, rng: random.Random, depth: int) -> dict[str, Any]:
        properties: _Node = node.get("properties", {})
        required: list[str] = list(dict.fromkeys(node.get("required", ())))
        optional = [name for name in properties if name not in required]
        smallest = int(node.get("minProperties", 0))
        largest = node.get("maxProperties", math.inf)
        others: Any = node.get("additionalProperties", True)
        drawn = {name: self._draw(properties.get(name, others), rng, depth + 1) for name in required}
        for name in rng.sample(optional, len(optional)):
            if len(drawn) < largest and (len(drawn) < smallest or (depth < _DEEP and rng.random() < 0.5)):
                with contextlib.suppress(NoDrawError):
                    drawn[name] = self._draw(properties[name], rng, depth + 1)
        # Free keys: as many as are asked for, and a few where the schema says something of them.
        keyed: list[tuple[str | None, Any]] = list(node.get("patternProperties", {}).items())
        free = rng.randint(0, 2) if depth < _DEEP and (keyed or not isinstance(others, bool)) else 0
        wanted_size = min(max(smallest, len(drawn) + free), largest)
        for _ in range(_ATTEMPTS):
            if len(drawn) >= wanted_size:
                break
            pattern, schema = rng.choice(keyed or [(None, others)])
            drawn.setdefault(self._draw_key(node, pattern, rng, depth), self._draw(schema, rng, depth + 1))
        order = {name: position for position, name in enumerate(properties)}
        return dict(sorted(drawn.items(), key=lambda item: order.get(item[0], len(order))))

    def _draw_key(self, node: _Node, pattern: str | None, rng: random.Random, depth: int) -> str:
        if pattern is not None:
            return draw_pattern(pattern, rng)
        if "propertyNames" in node:
            return str(self._draw(_merge({"type": "string"}, node["propertyNames"]), rng, depth + 1))
        # A schema cannot say that keys are integers (Pydantic's dict[int, …]); digits are good keys either way.
        return str(rng.randint(0, 999))

    def _draw_array(self, node: _Node, rng: random.Random, depth: int) -> list[Any]:
        items: Any = node.get("items", True)
        prefix: Sequence[Any] = node.get("prefixItems", ())
        if isinstance(items, list):  # drafts before 2020-12
            prefix, items = cast("Sequence[Any]", items), node.get("additionalItems", True)
        required = int(node.get("minContains", 1)) if "contains" in node else 0
        smallest = max(int(node.get("minItems", 0)), required)
        free = rng.randint(0, 3) if depth < _DEEP and "items" in node and items is not False else 0
        size = min(max(smallest, len(prefix) + free), node.get("maxItems", math.inf))
        drawn: list[Any] = []
        for _ in range(_ATTEMPTS):
            place = len(drawn)
            if place >= size:
                break
            schema = prefix[place] if place < len(prefix) else items
            try:
                value = self._draw(_merge(schema, node["contains"]) if place < required else schema, rng, depth + 1)
            except NoDrawError:
                break
            if not (node.get("uniqueItems") and _canonical(value) in map(_canonical, drawn)):
                drawn.append(value)
        if len(drawn) < smallest:
            raise NoDrawError
        return drawn

    def _flat(self, node: _Node) -> _Node:
        """The node with its references and ``allOf`` merged in."""
        for _ in range(_ATTEMPTS):
            if "$ref" in node:
                node = _merge({key: value for key, value in node.items() if key != "$ref"}, self._resolve(node["$ref"]))
            elif "allOf" in node:
                parts = node["allOf"]
                node = {key: value for key, value in node.items() if key != "allOf"}
                for part in parts:
                    node = _merge(node, part)
            else:
                return node
        raise NoDrawError  # a reference to itself

    def _resolve(self, reference: str) -> Any:
        """The schema at a reference within the document, such as ``#/$defs/Node``."""
        if not reference.startswith("#"):
            raise ValueError(f"the schema refers to another document: {reference!r}")
        place: Any = self.document
        for part in reference[1:].split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            try:
                place = place[key if isinstance(place, Mapping) else int(key)]
            except (KeyError, IndexError, ValueError, TypeError):
                raise ValueError(f"the schema refers to {reference!r}, which it does not hold") from None
        return place


_KEYWORD_TYPES = {
    "object": {"properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"},
    "string": {"minLength", "maxLength", "pattern", "format", "contentMediaType"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}


def _types(node: _Node) -> Sequence[str]:
    """The types a node allows; one without ``type`` gives what its other keywords speak of, else something plain."""
    kinds = node.get("type")
    if isinstance(kinds, str):
        return [kinds]
    if kinds is not None:
        return list(kinds)
    spoken_of = [kind for kind, keywords in _KEYWORD_TYPES.items() if keywords & node.keys()]
    return spoken_of or ["string", "integer", "boolean", "null"]


def _branches(schemas: Sequence[Any]) -> Sequence[Any]:
    """The branches worth drawing from: Pydantic writes Decimal as a number or a string, and means a numeral."""
    nodes = [cast("_Node", schema) for schema in schemas if isinstance(schema, Mapping)]
    has_number = any(node.get("type") == "number" for node in nodes)
    return [schema for schema in schemas if not (has_number and schema == {"type": "string"})]


def _drawable(values: Sequence[Any]) -> Sequence[Any]:
    if not values:
        raise NoDrawError
    return values


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _merge(left: Any, right: Any) -> _Node:
    """A node that asks for what both ask for, as far as that directs a draw."""
    if left is False or right is False:
        raise NoDrawError
    merged: dict[str, Any] = {} if left is True else dict(left)
    added: _Node = {} if right is True else right
    for keyword, theirs in added.items():
        merged[keyword] = _both(keyword, merged[keyword], theirs) if keyword in merged else theirs
    return merged


def _both(keyword: str, ours: Any, theirs: Any) -> Any:
    match keyword:
        case "properties" | "patternProperties":
            return {
                **ours,
                **{name: _all_of(ours[name], node) if name in ours else node for name, node in theirs.items()},
            }
        case "required":
            return list(dict.fromkeys([*ours, *theirs]))
        case "allOf":
            return [*ours, *theirs]
        case "anyOf" | "oneOf":
            return [_all_of(left, right) for left in ours for right in theirs]
        case "enum":
            return [value for value in ours if _canonical(value) in map(_canonical, theirs)]
        case "type":
            kinds = [set(_types({"type": kinds})) for kinds in (ours, theirs)]
            return sorted(
                kind
                for kind in kinds[0] | kinds[1]
                if all(kind in side or (kind == "integer" and "number" in side) for side in kinds)
            )
        case "items" | "additionalProperties" | "propertyNames" | "contains":
            return _all_of(ours, theirs)
        case "minimum" | "exclusiveMinimum" | "minLength" | "minItems" | "minProperties":
            return max(ours, theirs)
        case "maximum" | "exclusiveMaximum" | "maxLength" | "maxItems" | "maxProperties":
            return min(ours, theirs)
        case _:
            return theirs


def _all_of(left: Any, right: Any) -> _Node:
    return {"allOf": [left, right]}
