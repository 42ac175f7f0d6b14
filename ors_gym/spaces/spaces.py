"""The spaces of observations and actions in ORS environments.

Both are custom spaces in Gymnasium's sense: they batch into a ``Tuple`` of copies (`gymnasium.vector.utils`), are
seeded, compared by what they allow, and pickled. Gymnasium's shared memory holds arrays only, so an ``AsyncVectorEnv``
over them is made with ``shared_memory=False``.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Iterable, Mapping, Sequence
from copy import copy, deepcopy
from typing import Any, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ors_gym.spaces.schemas import Schema
from ors_gym.types import Block, ImageBlock, Message, TextBlock, ToolCall, ToolList, ToolSpec

__all__ = ["BlocksSpace", "MessagesSpace", "TextSpace", "ToolCallSpace"]

_PIXEL = (  # a PNG of one transparent pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


class TextSpace(gymnasium.Space[str]):
    """Any string, of any characters; with ``max_length``, of at most that many (both bounds are inclusive).

    (`gymnasium.spaces.Text` needs the characters it may be made of and a greatest length.)

    >>> "¿Qué tal? 你好" in TextSpace()
    True
    """

    def __init__(
        self,
        max_length: int | None = None,
        *,
        min_length: int = 0,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        if min_length < 0 or (max_length is not None and max_length < min_length):
            raise ValueError(f"there is no string of at least {min_length} and at most {max_length} characters")
        self.min_length = min_length
        self.max_length = max_length
        super().__init__(dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: text has no fixed length."""
        return False

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """Draw a string of printable ASCII, of up to 32 characters more than the least. Takes no mask."""
        if mask is not None or probability is not None:
            raise ValueError("TextSpace.sample takes neither mask nor probability")
        most = self.min_length + 32 if self.max_length is None else min(self.max_length, self.min_length + 32)
        length = int(self.np_random.integers(self.min_length, most + 1))
        letters = string.ascii_letters + string.digits + string.punctuation + " "
        return "".join(letters[index] for index in self.np_random.integers(len(letters), size=length))

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a string within the bounds."""
        return (
            isinstance(x, str) and self.min_length <= len(x) and (self.max_length is None or len(x) <= self.max_length)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextSpace) and self._bounds == other._bounds

    def __hash__(self) -> int:
        return hash(self._bounds)

    def __repr__(self) -> str:
        bounds = {"max_length": self.max_length, "min_length": self.min_length or None}
        return f"TextSpace({', '.join(f'{name}={value}' for name, value in bounds.items() if value is not None)})"

    @property
    def _bounds(self) -> tuple[int, int | None]:
        return self.min_length, self.max_length


class BlocksSpace(gymnasium.Space[tuple[Block, ...]]):
    """Text and images in an order that matters: a tuple of :class:`~ors_gym.types.TextBlock` and ``ImageBlock``."""

    def __init__(self, seed: int | np.random.Generator | None = None) -> None:
        self._text = TextSpace()
        super().__init__(seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: blocks are not arrays."""
        return False

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> tuple[Block, ...]:
        """Draw up to three blocks. Takes no mask."""
        self._text._np_random = self.np_random
        kinds = self.np_random.integers(2, size=int(self.np_random.integers(4)))
        return tuple(ImageBlock(_PIXEL, "image/png") if kind else TextBlock(self._text.sample()) for kind in kinds)

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a tuple of blocks."""
        return isinstance(x, tuple) and all(isinstance(block, TextBlock | ImageBlock) for block in cast("Any", x))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BlocksSpace)

    def __hash__(self) -> int:
        return hash(BlocksSpace)

    def __repr__(self) -> str:
        return "BlocksSpace()"


class MessagesSpace(gymnasium.Space[tuple[Message, ...]]):
    """A conversation: a tuple of :class:`~ors_gym.types.Message`."""

    def __init__(self, seed: int | np.random.Generator | None = None) -> None:
        self._blocks = BlocksSpace()
        super().__init__(seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: messages are not arrays."""
        return False

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> tuple[Message, ...]:
        """Draw one to three messages in turn, the user's first. Takes no mask."""
        self._blocks._np_random = self.np_random
        count = int(self.np_random.integers(1, 4))
        return tuple(Message("assistant" if turn % 2 else "user", self._blocks.sample()) for turn in range(count))

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a tuple of messages."""
        return isinstance(x, tuple) and all(isinstance(message, Message) for message in cast("Any", x))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MessagesSpace)

    def __hash__(self) -> int:
        return hash(MessagesSpace)

    def __repr__(self) -> str:
        return "MessagesSpace()"


class ToolCallSpace(gymnasium.Space[ToolCall]):
    """The calls an environment's tools allow, by their JSON Schemas.

    An element is a :class:`~ors_gym.types.ToolCall` of one of :attr:`tools` whose input its schema allows; a mapping
    ``{"name", "input"}`` is the same element. A terminal tool is one of the tools, the last: it is hidden from the
    model, but calling it is an action.

    >>> guess = ToolSpec("guess", input_schema={"properties": {"word": {"enum": ["crane"]}}, "required": ["word"]})
    >>> ToolCallSpace([guess]).sample()
    ToolCall(name='guess', input={'word': 'crane'})
    """

    def __init__(self, tools: ToolList | Sequence[ToolSpec], seed: int | np.random.Generator | None = None) -> None:
        self.tools = _with_terminal_tool(tools)
        self._schemas = {tool.name: Schema(tool.input_schema) for tool in self.tools}
        super().__init__(seed=seed)

    @property
    def names(self) -> tuple[str, ...]:
        """The tools' names, in the order of masks."""
        return tuple(tool.name for tool in self.tools)

    @property
    def is_np_flattenable(self) -> bool:
        """False: calls are not arrays."""
        return False

    def mask(self, *names: str) -> NDArray[np.int8]:
        """The mask of :meth:`sample` that allows the named tools; raises ValueError for a name there is not."""
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            raise ValueError(f"no tool is called {', '.join(map(repr, unknown))}; there are {', '.join(self.names)}")
        return np.array([name in names for name in self.names], dtype=np.int8)

    def sample(self, mask: NDArray[np.int8] | None = None, probability: NDArray[np.float64] | None = None) -> ToolCall:
        """Draw a call: first the tool, then an input that its schema allows.

        As in `gymnasium.spaces.Discrete`, ``mask`` is an int8 array of shape ``(len(tools),)`` with 1 for each tool
        that may be drawn (see :meth:`mask`), ``probability`` a float64 array of that shape that sums to 1. Raises
        ValueError where no tool may be drawn, or where a schema allows nothing that could be found.
        """
        if mask is not None and probability is not None:
            raise ValueError("sample takes a mask or a probability, not both")
        weights = np.ones(len(self.tools)) if mask is None else self._checked(mask, np.dtype(np.int8))
        if probability is not None:
            weights = self._checked(probability, np.dtype(np.float64))
            if not np.isclose(weights.sum(), 1):
                raise ValueError(f"the probabilities sum to {weights.sum()}, not to 1")
        if not weights.any():
            raise ValueError(f"no tool to draw from: tools {self.names}, mask {mask}")
        tool = self.tools[int(self.np_random.choice(len(self.tools), p=weights / weights.sum()))]
        rng = random.Random(int(self.np_random.integers(2**63)))
        return ToolCall(tool.name, self._schemas[tool.name].sample(rng))

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a call that the tool's schema allows and JSON can carry."""
        if isinstance(x, Mapping):
            call = cast("Mapping[str, Any]", x)
            if not {"name"} <= call.keys() <= {"name", "input"}:
                return False
            name, arguments = call["name"], call.get("input", {})
        elif isinstance(x, ToolCall):
            name, arguments = x.name, x.input
        else:
            return False
        if name not in self.names:
            return False
        try:
            value = json.loads(json.dumps(dict(arguments), allow_nan=False))
        except (TypeError, ValueError):
            return False
        return self._schemas[name].is_valid(value)

    def to_jsonable(self, sample_n: Iterable[ToolCall]) -> list[dict[str, Any]]:
        """Write calls as ``{"name", "input"}``."""
        return [{"name": call.name, "input": dict(call.input)} for call in sample_n]

    def from_jsonable(self, sample_n: list[Any]) -> list[ToolCall]:
        """Read calls that :meth:`to_jsonable` wrote."""
        return [ToolCall(call["name"], call["input"]) for call in sample_n]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ToolCallSpace) and self.tools == other.tools

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f"ToolCallSpace({', '.join(self.names)})"

    def __deepcopy__(self, memo: dict[int, Any]) -> ToolCallSpace:
        """Copy the random generator and share the tools, which do not change: a batch holds hundreds of copies."""
        clone = copy(self)
        clone._np_random = deepcopy(self._np_random, memo)
        return clone

    def _checked(self, weights: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        shape = (len(self.tools),)
        if not hasattr(weights, "dtype") or weights.dtype != dtype or weights.shape != shape:
            raise ValueError(
                f"expected a {dtype} array of shape {shape}, one for each of {self.names}, got {weights!r}"
            )
        if (weights < 0).any():
            raise ValueError(f"a weight is negative: {weights!r}")
        return weights


def _with_terminal_tool(tools: ToolList | Sequence[ToolSpec]) -> tuple[ToolSpec, ...]:
    terminal = tools.terminal_tool if isinstance(tools, ToolList) else None
    if terminal is None:
        return tuple(tools)
    argument = {} if terminal.arg is None else {terminal.arg: {"type": "string"}}
    schema = {"type": "object", "properties": argument, "required": list(argument)} if argument else None
    return (*tools, ToolSpec(terminal.name, terminal.description, schema))
