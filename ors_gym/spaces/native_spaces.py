"""Gymnasium's spaces as JSON, and back: equal, with equal samples for equal seeds.

A space is an object of its kind and the arguments that make it; bounds that are the same everywhere are one number.
"""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# Spaces and their values are of any type, which pyright calls unknown when it narrows them.

from __future__ import annotations

import math
from typing import Any, TypeAlias, cast

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ors_gym.spaces.native_values import MAX_ARRAY_BYTES, read_value, write_value
from ors_gym.types.shapes import shown

__all__ = ["read_space", "write_space"]

AnySpace: TypeAlias = "spaces.Space[Any]"


def write_space(space: AnySpace) -> dict[str, Any]:
    """``space`` as JSON.

    Raises:
        TypeError: it is, or holds, a space of a class that is not Gymnasium's.
    """
    kind = type(space).__name__
    if getattr(spaces, kind, None) is not type(space):
        module = type(space).__module__
        raise TypeError(f"the space {module}.{kind} is none of Gymnasium's, so other programs cannot make it")
    return {"space": kind, **_arguments(space)}


def _arguments(space: AnySpace) -> dict[str, Any]:
    match space:
        case spaces.Box():
            bounds = {"low": _bound(space.low), "high": _bound(space.high)}
            limits = {"bounded_below": _bound(space.bounded_below), "bounded_above": _bound(space.bounded_above)}
            return {"shape": list(space.shape), "dtype": space.dtype.str, **bounds, **limits}
        case spaces.Discrete():
            return {"n": int(space.n), "start": int(space.start), "dtype": space.dtype.str}
        case spaces.MultiDiscrete():
            return {"nvec": write_value(space.nvec), "start": write_value(space.start), "dtype": space.dtype.str}
        case spaces.MultiBinary():
            return {"n": space.n if isinstance(space.n, int) else [int(size) for size in space.n]}
        case spaces.Text():
            lengths = {"min_length": int(space.min_length), "max_length": int(space.max_length)}
            return {**lengths, "charset": "".join(space.character_list)}
        case spaces.Dict():
            return {"spaces": [[write_value(key), write_space(each)] for key, each in space.spaces.items()]}
        case spaces.Tuple() | spaces.OneOf():
            return {"spaces": [write_space(each) for each in space.spaces]}
        case spaces.Sequence():
            return {"feature": write_space(space.feature_space), "stack": bool(space.stack)}
        case spaces.Graph():
            edges = None if space.edge_space is None else write_space(space.edge_space)
            return {"nodes": write_space(space.node_space), "edges": edges}
        case _:
            raise TypeError(f"the space {type(space).__name__} cannot travel")


def _bound(bounds: NDArray[Any]) -> Any:
    """The bounds, as one scalar where all are the same."""
    if bounds.size and np.all(bounds == bounds.flat[0]) and _same_zeros(bounds):
        return write_value(bounds.flat[0])
    return write_value(bounds)


def _same_zeros(bounds: NDArray[Any]) -> bool:
    return bounds.dtype.kind != "f" or len(set(np.signbit(bounds.reshape(-1)).tolist())) == 1


def read_space(wire: Any) -> AnySpace:
    """The space that :func:`write_space` wrote.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(wire, dict):
        raise ValueError(f"no space: {shown(wire)}")
    fields = cast("dict[str, Any]", wire)
    try:
        return _space(fields)
    except KeyError as missing:
        raise ValueError(f"no space, for want of {missing}: {shown(fields)}") from None
    except (AssertionError, TypeError, OverflowError) as error:
        raise ValueError(f"no space: {shown(fields)} ({error})") from error


def _space(fields: dict[str, Any]) -> AnySpace:
    match fields["space"]:
        case "Box":
            return _box(fields)
        case "Discrete":
            discrete = spaces.Discrete(int(fields["n"]), start=int(fields["start"]))
            discrete.dtype = np.dtype(fields["dtype"])
            discrete.n, discrete.start = discrete.dtype.type(discrete.n), discrete.dtype.type(discrete.start)
            return discrete
        case "MultiDiscrete":
            nvec, start = read_value(fields["nvec"]), read_value(fields["start"])
            return cast("AnySpace", spaces.MultiDiscrete(nvec, dtype=np.dtype(fields["dtype"]), start=start))
        case "MultiBinary":
            n = fields["n"]
            return spaces.MultiBinary([int(size) for size in n] if isinstance(n, list) else int(n))
        case "Text":
            lengths = {name: int(fields[name]) for name in ("min_length", "max_length")}
            return spaces.Text(charset=fields["charset"], **lengths)
        case "Dict":
            return spaces.Dict([(read_value(key), read_space(each)) for key, each in fields["spaces"]])
        case "Tuple":
            return spaces.Tuple([read_space(each) for each in fields["spaces"]])
        case "OneOf":
            return spaces.OneOf([read_space(each) for each in fields["spaces"]])
        case "Sequence":
            return spaces.Sequence(read_space(fields["feature"]), stack=bool(fields["stack"]))
        case "Graph":
            edges = fields["edges"]
            return cast(
                "AnySpace", spaces.Graph(read_space(fields["nodes"]), None if edges is None else read_space(edges))
            )
        case kind:
            raise ValueError(f"Gymnasium has no space called {kind!r}")


def _box(fields: dict[str, Any]) -> AnySpace:
    dtype, shape = np.dtype(fields["dtype"]), tuple(int(size) for size in fields["shape"])
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > MAX_ARRAY_BYTES:
        raise ValueError(f"a Box of shape {shape}")
    low, high = (np.broadcast_to(read_value(fields[name]), shape).astype(dtype) for name in ("low", "high"))
    box = spaces.Box(low, high, shape=shape, dtype=cast("Any", dtype))
    for name in ("bounded_below", "bounded_above"):  # of integers, an array cannot say that there is no bound
        setattr(box, name, np.broadcast_to(read_value(fields[name]), shape).astype(bool))
    return box
