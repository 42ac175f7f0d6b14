"""Printing to the terminal. Text from environments is untrusted: control characters are removed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ors_gym.redaction import visible
from ors_gym.types import ToolSpec

__all__ = ["print_tools", "say", "visible"]


def say(console: Console, text: str, style: str = "") -> None:
    """Print text unchanged: no markup, no added line breaks."""
    console.print(Text(visible(text), style=style), soft_wrap=True)


def _signature(tool: ToolSpec) -> str:
    schema = tool.input_schema or {}
    required = schema.get("required") or ()
    properties = cast("Mapping[str, Any]", schema.get("properties") or {})
    shared = cast("Mapping[str, Any]", schema.get("$defs") or {})
    arguments = [f"{name}{'' if name in required else '?'}: {_kind(kind, shared)}" for name, kind in properties.items()]
    return f"{tool.name}({', '.join(arguments)})"


def _kind(schema: Any, shared: Mapping[str, Any]) -> str:
    """A short form of a JSON Schema, which may refer to ``shared`` ones, for typing an input."""
    if not isinstance(schema, dict):
        return "any"
    kinds = cast("dict[str, Any]", schema)
    referred = str(kinds.get("$ref", "")).removeprefix("#/$defs/")
    if referred in shared:  # only once: a schema may refer to itself
        return _kind(shared[referred], {name: each for name, each in shared.items() if name != referred})
    if "enum" in kinds:
        return "|".join(json.dumps(value) for value in kinds["enum"])
    if "anyOf" in kinds:
        return "|".join(_kind(option, shared) for option in kinds["anyOf"])
    if kinds.get("type") == "array":
        return f"[{_kind(kinds.get('items'), shared)}]"
    return str(kinds.get("type", "object" if "$ref" in kinds else "any"))


def print_tools(console: Console, tools: Sequence[ToolSpec]) -> None:
    """Print each tool's name, arguments and description."""
    table = Table.grid(padding=(0, 2))
    for tool in tools:
        description = " ".join(tool.description.split())
        table.add_row("", Text(visible(_signature(tool)), style="cyan"), Text(visible(description)))
    console.print(table)
