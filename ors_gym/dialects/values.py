"""The type of a raw argument, which the tool's JSON Schema determines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

from ors_gym.dialects.scanning import ParseReason, UnreadableCallError, decode_json, excerpt

__all__ = ["allowed_types", "schema_of_argument", "typed"]

Schema: TypeAlias = Mapping[str, Any]
ANY = frozenset({"string", "integer", "number", "boolean", "null", "object", "array"})
LITERALS: dict[str, bool | None] = {"True": True, "False": False, "None": None}
"""Python's spelling, which some templates use (Qwen 3.5, Nemotron 3)."""
MAX_REFERENCES = 16


def schema_of_argument(root: Schema | None, key: str) -> Any:
    """The schema of one argument of a tool whose schema is ``root``; None if it has none."""
    additional = None
    for schema in _combined(root):
        properties = schema.get("properties")
        if isinstance(properties, Mapping) and key in properties:
            return cast("Schema", properties)[key]
        additional = additional or schema.get("additionalProperties")
    return additional


def _combined(root: Schema | None) -> Iterator[Schema]:
    """A tool's schema, and those that it references or combines; each once."""
    seen: set[int] = set()
    pending: list[Any] = [root]
    while pending:
        schema = _resolved(pending.pop(), root)
        if isinstance(schema, Mapping) and id(cast("Schema", schema)) not in seen:
            fields = cast("Schema", schema)
            seen.add(id(fields))
            yield fields
            for keyword in ("allOf", "anyOf", "oneOf"):
                pending += _list(fields, keyword)


def _list(fields: Schema, keyword: str) -> list[Any]:
    value = fields.get(keyword)
    items: list[Any] = value if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType]
    return items


def _resolved(schema: Any, root: Schema | None) -> Any:
    """The schema that a local reference (``#/$defs/…``) points to."""
    for _ in range(MAX_REFERENCES):
        reference = cast("Schema", schema).get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(reference, str):
            return schema  # pyright: ignore[reportUnknownVariableType]
        schema = root
        for part in reference.removeprefix("#").split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            schema = cast("Schema", schema).get(part) if isinstance(schema, Mapping) else None
    return None


def allowed_types(schema: Any, root: Schema | None, known: dict[int, frozenset[str]] | None = None) -> frozenset[str]:
    """The JSON types that a schema allows; all of them if it does not specify any."""
    known = {} if known is None else known
    schema = _resolved(schema, root)
    if not isinstance(schema, Mapping):
        return ANY
    fields = cast("Schema", schema)
    if id(fields) in known:
        return known[id(fields)]
    known[id(fields)] = ANY  # a schema may refer to itself
    types = ANY
    declared = fields.get("type")
    names = [declared] if isinstance(declared, str) else _list(fields, "type")
    if names:
        types &= _with_integers(frozenset(map(str, names)))
    values = [fields["const"]] if "const" in fields else _list(fields, "enum")
    if values:
        types &= _with_integers(frozenset(map(type_of, values)))
    for keyword in ("anyOf", "oneOf"):
        options = _list(fields, keyword)
        if options:
            types &= frozenset[str]().union(*(allowed_types(each, root, known) for each in options))
    for part in _list(fields, "allOf"):
        types &= allowed_types(part, root, known)
    if fields.get("nullable") is True:
        types |= {"null"}
    known[id(fields)] = types or ANY
    return known[id(fields)]


def _with_integers(types: frozenset[str]) -> frozenset[str]:
    return types | {"integer"} if "number" in types else types


def type_of(value: Any) -> str:
    """The JSON type of a decoded value; a whole number is an integer even with a decimal point, as in JSON Schema."""
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case None:
            return "null"
        case Mapping():
            return "object"
        case Sequence():
            return "array"
        case _:
            return type(value).__name__


def typed(raw: str, schema: Any, root: Schema | None, key: str) -> Any:
    """The value of an argument that was written without quotes.

    If the schema allows only strings, it is the unchanged text. Otherwise it is the JSON value (or Python's ``True``,
    ``False``, ``None``) if the schema allows its type, or else the text, if strings are allowed.
    """
    types = allowed_types(schema, root)
    if types == frozenset({"string"}):
        return raw
    stripped = raw.strip(" \t\r\n")
    try:
        value = LITERALS[stripped] if stripped in LITERALS else decode_json(stripped, whole=True)[0]
    except UnreadableCallError as unreadable:
        if "string" in types:
            return raw
        wanted = " or ".join(sorted(types))
        reason: ParseReason = "too_large" if unreadable.reason == "too_large" else "invalid_call"
        why = f"{excerpt(key)!r} must be {wanted}, got {excerpt(raw)!r} ({unreadable.why})"
        raise UnreadableCallError(reason, why) from None
    if type_of(value) in types:
        return raw if isinstance(value, str) and "string" in types else value
    if "string" in types:
        return raw
    wanted = " or ".join(sorted(types))
    raise UnreadableCallError("invalid_call", f"{excerpt(key)!r} must be {wanted}, got {excerpt(raw)!r}")
