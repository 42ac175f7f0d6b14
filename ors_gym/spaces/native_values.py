"""Values of environments as JSON, exact to the bit: NumPy arrays and scalars, tuples, graphs, non-finite floats.

None, booleans, integers, finite floats, text and lists are written as they are. Everything else is an object with one
key that says what it is:

=========================================  ====================================================
``{"n": ["<f4", [4], base64]}``            a NumPy array: dtype, shape, bytes in C order
``{"z": ["|u1", [84, 84, 4], base64]}``    the same, compressed by zlib where that is shorter
``{"o": [[2], [value, value]]}``           an array of Python objects: shape, values in C order
``{"s": ["<f8", base64]}``                 a NumPy scalar
``{"t": [value, …]}``                      a tuple
``{"g": [nodes, edges, edge_links]}``      a :class:`gymnasium.spaces.GraphInstance`
``{"d": [[key, value], …]}``               a mapping, in order
``{"f": "nan"}``                           a float that is not finite: ``nan``, ``inf`` or ``-inf``
``{"b": base64}``                          bytes
``{"x": ["module.Class", text]}``          a value that cannot travel, where such values are allowed
=========================================  ====================================================

Nothing is executed to read a value, and nothing is allocated that the message is not long enough for, apart from
compressed arrays, which are limited by :data:`MAX_ARRAY_BYTES`.
"""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# Spaces and their values are of any type, which pyright calls unknown when it narrows them.

from __future__ import annotations

import base64
import binascii
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from gymnasium.spaces import GraphInstance
from numpy.typing import NDArray

from ors_gym.types.shapes import shown

__all__ = ["MAX_ARRAY_BYTES", "Unsent", "read_value", "write_value"]

MAX_ARRAY_BYTES = 256 * 2**20
"""The longest compressed array that is read."""

COMPRESSED_FROM_BYTES = 1024
"""Shorter arrays are sent as they are."""

_DTYPE = re.compile(r"[<>|](?:[biufc]\d{1,2}|[SU]\d{1,7}|[mM]8(?:\[\d{0,6}[a-zA-Z]{1,2}\])?)")


@dataclass(frozen=True, slots=True)
class Unsent:
    """Placeholder in an ``info`` for a value that cannot be sent, such as an object of a server-side class."""

    type: str
    text: str


def write_value(value: Any, *, lossy: bool = False) -> Any:
    """``value`` as JSON. With ``lossy``, a value of a type that cannot travel becomes an :class:`Unsent`.

    Raises:
        TypeError: it holds a value that cannot travel.
    """
    match value:
        case np.ndarray():
            return _write_array(cast("NDArray[Any]", value), lossy)
        case np.generic() if _travels(value.dtype):
            return {"s": [value.dtype.str, base64.b64encode(value.tobytes()).decode()]}
        case None | bool() | str():
            return value
        case int():
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else {"f": str(float(value))}
        case bytes() | bytearray():
            return {"b": base64.b64encode(value).decode()}
        case GraphInstance():
            return {"g": [write_value(part, lossy=lossy) for part in (value.nodes, value.edges, value.edge_links)]}
        case tuple():
            return {"t": [write_value(item, lossy=lossy) for item in value]}
        case list():
            return [write_value(item, lossy=lossy) for item in value]
        case Mapping():
            items = value.items()
            return {"d": [[write_value(key, lossy=lossy), write_value(each, lossy=lossy)] for key, each in items]}
        case _ if lossy:
            cls = type(value)
            return {"x": [f"{cls.__module__}.{cls.__qualname__}", repr(value)[:200]]}
        case _:
            raise TypeError(f"a value of type {type(value).__name__} cannot travel")


def read_value(wire: Any) -> Any:
    """The value that :func:`write_value` wrote.

    Raises:
        ValueError: it is none.
    """
    if isinstance(wire, list):
        return [read_value(item) for item in wire]
    if not isinstance(wire, dict):
        return wire
    fields = cast("dict[str, Any]", wire)
    try:
        ((kind, content),) = fields.items()
        return _read(kind, content)
    except (TypeError, ValueError, KeyError, zlib.error, binascii.Error, OverflowError) as error:
        reason = str(error) or type(error).__name__
    raise ValueError(f"no value of an environment: {shown(fields)} ({reason})")


def _read(kind: str, content: Any) -> Any:
    match kind:
        case "n":
            dtype, shape, data = content
            return _read_array(_dtype(dtype), shape, _bytes(data))
        case "z":
            dtype, shape, data = content
            kind_of, length = _dtype(dtype), _length(_dtype(dtype), shape)
            if length > MAX_ARRAY_BYTES:
                raise ValueError(f"an array of {length:,} bytes")
            reader = zlib.decompressobj()
            unpacked = reader.decompress(_bytes(data), length + 1)  # 0 would mean no limit
            return _read_array(kind_of, shape, unpacked)
        case "o":
            shape, items = content
            if math.prod(_shape(shape)) != len(items):
                raise ValueError(f"{len(items)} values for the shape {shape}")
            array = np.empty(len(items), dtype=object)
            array[:] = [read_value(item) for item in items]
            return array.reshape(shape)
        case "s":
            dtype, data = content
            return _read_array(_dtype(dtype), [], _bytes(data))[()]
        case "t":
            return tuple(read_value(item) for item in _list(content))
        case "g":
            nodes, edges, edge_links = content
            return GraphInstance(read_value(nodes), read_value(edges), read_value(edge_links))
        case "d":
            return {read_value(key): read_value(each) for key, each in content}
        case "f":
            return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content]
        case "b":
            return _bytes(content)
        case "x":
            type_, text = content
            return Unsent(str(type_), str(text))
        case _:
            raise ValueError(f"no kind is called {kind!r}")


def _write_array(array: NDArray[Any], lossy: bool) -> dict[str, Any]:
    if array.dtype == object:
        return {"o": [list(array.shape), [write_value(item, lossy=lossy) for item in array.reshape(-1).tolist()]]}
    if not _travels(array.dtype):
        if lossy:
            return {"x": [f"numpy.ndarray of {array.dtype}", ""]}
        raise TypeError(f"an array of {array.dtype} cannot travel")
    data = array.tobytes()
    if len(data) >= COMPRESSED_FROM_BYTES:
        packed = zlib.compress(data, 1)
        if len(packed) < len(data):
            return {"z": [array.dtype.str, list(array.shape), base64.b64encode(packed).decode()]}
    return {"n": [array.dtype.str, list(array.shape), base64.b64encode(data).decode()]}


def _read_array(dtype: np.dtype[Any], shape: Any, data: bytes) -> NDArray[Any]:
    if _length(dtype, shape) != len(data):
        raise ValueError(f"{len(data)} bytes for the shape {shape} of {dtype}")
    if not data:
        return np.empty(shape, dtype)
    return np.frombuffer(bytearray(data), dtype).reshape(shape)  # of a bytearray, to be writable


def _length(dtype: np.dtype[Any], shape: Any) -> int:
    return math.prod(_shape(shape)) * dtype.itemsize


def _shape(shape: Any) -> list[int]:
    sizes = _list(shape)
    if len(sizes) > 32 or not all(type(size) is int and 0 <= size < 2**40 for size in sizes):
        raise ValueError(f"no shape: {shown(shape)}")
    return sizes


def _list(content: Any) -> list[Any]:
    if not isinstance(content, list):
        raise TypeError(f"expected a list, got {type(content).__name__}")
    return content


def _dtype(written: Any) -> np.dtype[Any]:
    if not isinstance(written, str) or not _DTYPE.fullmatch(written):
        raise ValueError(f"no dtype that travels: {shown(written)}")
    return np.dtype(written)


def _travels(dtype: np.dtype[Any]) -> bool:
    return _DTYPE.fullmatch(dtype.str) is not None


def _bytes(data: Any) -> bytes:
    return base64.b64decode(data, validate=True)
