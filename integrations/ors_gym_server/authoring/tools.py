"""Declaration of tools on a class, and their lookup.

A tool is a method marked with :func:`tool` that takes one Pydantic model, or nothing, and returns a ``ToolOutput`` (or
a ``str``: an observation without a reward). The marks are the attributes that the reference SDK's decorators set on a
function, so classes written for either are read the same way.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, TypeVar, get_type_hints, overload

from pydantic import BaseModel, ValidationError

from ors_gym.types import TerminalTool, TextBlock, ToolList, ToolOutput, ToolSpec
from ors_gym_server.threads import run_user

__all__ = [
    "MESSAGE_BLOCK_TYPES",
    "BoundTool",
    "CallOrder",
    "ToolDeclaration",
    "ToolFinder",
    "as_output",
    "declared_tools",
    "misdeclared_tools",
    "read_declaration",
    "refusal_of",
    "terminal",
    "tool",
    "tool_list",
]

F = TypeVar("F", bound=Callable[..., Any])

MAX_DETAILS = 100
"""Maximum validation errors that are listed; more are only counted, as a longer list takes seconds to write."""

MESSAGE_BLOCK_TYPES = ("text", "image", "reasoning", "tool_call", "tool_result")
"""Types of blocks that ``get_messages`` may return."""


class CallOrder(Enum):
    """How a tool's calls are ordered among the calls of a session."""

    SERIAL = "one at a time"
    CONCURRENT = "at any time"
    EXCLUSIVE = "alone"


@overload
def tool(fn: F) -> F: ...
@overload
def tool(*, shared: bool = True, concurrent: bool = False, exclusive: bool = False) -> Callable[[F], F]: ...
def tool(
    fn: F | None = None, *, shared: bool = True, concurrent: bool = False, exclusive: bool = False
) -> F | Callable[[F], F]:
    """Declare a method as a tool; its docstring is the description for the agent.

    Args:
        fn: The method, if the decorator is used without parentheses.
        shared: False omits it from the environment's tool list; ``list_task_tools`` adds it where it exists.
        concurrent: Its calls may overlap with any other call of the session. By default the calls of one tool run one
            at a time, and the synchronous tools of one session never overlap.
        exclusive: It waits for running calls and delays new ones until it returns: for a tool that ends the episode by
            grading the results of the others.
    """

    def mark(method: F) -> F:
        marks = {"": True, "_shared": shared, "_concurrent": concurrent, "_exclusive": exclusive}
        for name, value in marks.items():
            setattr(method, f"_env_tool{name}", value)
        return method

    return mark if fn is None else mark(fn)


def terminal(fn: F) -> F:
    """Make a tool the terminal one: hidden from the agent, it receives the agent's plain final message.

    It takes a model with one field, or nothing, and always runs exclusively. A class has at most one.
    """
    fn._env_tool_terminal = True  # type: ignore[attr-defined]
    return fn


@dataclass(frozen=True, slots=True)
class ToolDeclaration:
    """The declaration of a tool, from its marks and signature."""

    name: str
    description: str
    input_model: type[BaseModel] | None
    is_async: bool
    shared: bool
    concurrent: bool
    exclusive: bool
    terminal: bool
    returns_text: bool
    """Whether it returns a ``str`` instead of a ``ToolOutput``."""

    @property
    def spec(self) -> ToolSpec:
        """The tool as shown to the agent."""
        schema = None if self.input_model is None else self.input_model.model_json_schema()
        return ToolSpec(self.name, self.description, schema)

    @property
    def terminal_tool(self) -> TerminalTool:
        """The tool as the terminal one."""
        fields = [] if self.input_model is None else list(self.input_model.model_fields)
        return TerminalTool(self.name, fields[0] if fields else None, self.description)


def read_declaration(name: str, fn: Any) -> ToolDeclaration | None:
    """The declaration of ``fn``; None if it is not marked as a tool.

    Raises:
        TypeError: it is marked, but its signature is not a tool's.
    """
    if not callable(fn) or not getattr(fn, "_env_tool", False):
        return None
    function = inspect.unwrap(fn)
    what = getattr(function, "__qualname__", name)
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        hint = ""
        if "<locals>" in what:
            hint = "; a class defined in a function cannot be resolved: define it at module level"
        raise TypeError(f"the annotations of tool {what} cannot be read: {error}{hint}") from error
    parameters = [each for each in inspect.signature(function).parameters.values() if each.name != "self"]
    if len(parameters) > 1:
        raise TypeError(f"tool {what} takes {len(parameters)} arguments; a tool takes one Pydantic model or nothing")
    model = hints.get(parameters[0].name) if parameters else None
    if parameters and not (inspect.isclass(model) and issubclass(model, BaseModel)):
        raise TypeError(f"the argument of tool {what} must be a Pydantic model, not {model!r}")
    returns = hints.get("return")
    if returns is not str and not (inspect.isclass(returns) and returns.__name__ == "ToolOutput"):
        raise TypeError(f"tool {what} must be annotated to return ToolOutput, not {returns!r}")
    is_terminal = bool(getattr(fn, "_env_tool_terminal", False))
    exclusive = is_terminal or bool(getattr(fn, "_env_tool_exclusive", False))
    return ToolDeclaration(
        name=name,
        description=(fn.__doc__ or "").strip(),
        input_model=model,
        is_async=inspect.iscoroutinefunction(fn),
        shared=bool(getattr(fn, "_env_tool_shared", True)),
        concurrent=bool(getattr(fn, "_env_tool_concurrent", False)) and not exclusive,
        exclusive=exclusive,
        terminal=is_terminal,
        returns_text=returns is str,
    )


def _declarations(owner: Any) -> Iterator[ToolDeclaration]:
    for name in dir(owner):
        fn = getattr(owner, name, None)
        if getattr(fn, "_env_tool_terminal", False) and not getattr(fn, "_env_tool", False):
            raise TypeError(f"{name!r} of {owner!r} is marked @terminal but not @tool; it needs both")
        if (declaration := read_declaration(name, fn)) is not None:
            yield declaration


def misdeclared_tools(owner: Any) -> list[str]:
    """The errors of methods that are marked as tools but have an invalid signature."""
    faults: list[str] = []
    for name in dir(owner):
        try:
            read_declaration(name, getattr(owner, name, None))
        except TypeError as error:
            faults.append(str(error))
    return faults


def declared_tools(*owners: type) -> dict[str, ToolDeclaration]:
    """The tools of a class and its toolsets by name, including the terminal one and those not shared.

    Raises:
        TypeError: a signature is invalid, two tools have the same name, or there is more than one terminal tool.
    """
    found: dict[str, ToolDeclaration] = {}
    for owner in owners:
        for declaration in _declarations(owner):
            if declaration.name in found:
                raise TypeError(
                    f"two tools are named {declaration.name!r}: one of {owner.__name__}, one declared earlier"
                )
            found[declaration.name] = declaration
    terminals = [each for each in found.values() if each.terminal]
    if len(terminals) > 1:
        raise TypeError(f"more than one terminal tool: {[each.name for each in terminals]}")
    for each in terminals:
        if each.input_model is not None and len(each.input_model.model_fields) > 1:
            raise TypeError(f"terminal tool {each.name!r} must have at most one field: the message")
    return found


def tool_list(declarations: Mapping[str, ToolDeclaration], *, supports_score_group: bool = False) -> ToolList:
    """The tools in the response of ``/tools``: the shared ones, and the terminal one."""
    specs = tuple(each.spec for each in declarations.values() if each.shared and not each.terminal)
    last = next((each.terminal_tool for each in declarations.values() if each.terminal), None)
    return ToolList(specs, last, supports_score_group, MESSAGE_BLOCK_TYPES)


@dataclass(frozen=True, slots=True)
class BoundTool:
    """A declared tool of one environment instance."""

    declaration: ToolDeclaration
    fn: Callable[..., Any]

    @property
    def turn(self) -> CallOrder:
        """How its calls are ordered."""
        if self.declaration.exclusive:
            return CallOrder.EXCLUSIVE
        return CallOrder.CONCURRENT if self.declaration.concurrent else CallOrder.SERIAL

    async def call(self, run: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        """Call the tool and convert a text result; ``run`` runs synchronous tools off the event loop."""
        if self.declaration.is_async:
            result = await self.fn(*arguments)
        else:
            result = await run_user(run, self.fn, *arguments)
        if not self.declaration.returns_text:
            return result
        if not isinstance(result, str):
            raise TypeError(f"{self.declaration.name!r} returned {type(result).__name__}; it is declared to return str")
        return ToolOutput((TextBlock(result),))

    def arguments(self, input: Mapping[str, Any]) -> tuple[BaseModel, ...]:
        """The arguments for ``fn``.

        Raises:
            pydantic.ValidationError: ``input`` does not fit the tool's model.
        """
        model = self.declaration.input_model
        return () if model is None else (model(**input),)


class ToolFinder:
    """Finds the tools of one environment instance by the names that the agent calls.

    Toolsets are constructed before the first lookup, each with the environment as its argument, or without one if its
    constructor takes none.
    """

    def __init__(self, environment: Any, extra: Any = None) -> None:
        self._environment = environment
        self._extra = extra
        self._toolsets: list[Any] = []
        self._found: dict[str, BoundTool] = {}
        self.ready = not type(environment).toolsets
        """Whether the toolsets are constructed."""

    def make_toolsets(self) -> None:
        """Construct the toolsets; this runs the environment's code and may be slow."""
        if not self.ready:
            self._toolsets = [_make_toolset(each, self._environment) for each in type(self._environment).toolsets]
            self.ready = True

    def find(self, name: str) -> BoundTool | ToolOutput:
        """The tool, or the refusal for the agent."""
        found = self._found.get(name) or self._look_for(name)
        if isinstance(found, BoundTool):  # refusals are not cached: agents may invent any number of names
            self._found[name] = found
        return found

    def _look_for(self, name: str) -> BoundTool | ToolOutput:
        if self._extra is not None and (bound := _bind(self._extra, name)) is not None:
            return bound
        own = _bind(self._environment, name)
        for toolset in self._toolsets:
            if (bound := _bind(toolset, name)) is None:
                continue
            if own is not None:
                clash = f"Tool name collision: '{name}' is defined in both the environment and toolset "
                error = f"{clash}'{type(toolset).__name__}'. Please rename one of them to avoid conflicts."
                return ToolOutput(ok=False, error=error, reason="name_collision")
            return bound
        return own or ToolOutput(ok=False, error=f"{name!r} is not a valid tool", reason="not_found")


def _make_toolset(toolset: Callable[..., Any], environment: Any) -> Any:
    try:
        return toolset(environment)
    except TypeError:
        return toolset()


def _bind(owner: Any, name: str) -> BoundTool | None:
    if isinstance(inspect.getattr_static(type(owner), name, None), property | cached_property):
        return None  # a call with its name must not run it
    fn: Any = getattr(owner, name, None)
    try:
        declaration = read_declaration(name, fn)
    except TypeError:  # reported when the class was hosted
        return None
    return None if declaration is None else BoundTool(declaration, fn)


def refusal_of(error: ValidationError) -> ToolOutput:
    """The refusal for the agent if its input does not fit the tool's model."""
    details = error.errors() if error.error_count() <= MAX_DETAILS else f"{error.error_count()} errors"
    return ToolOutput(ok=False, error=f"Tool input validation error: {details}", reason="input_validation")


def as_output(name: str, result: Any) -> ToolOutput:
    """The result of tool ``name``, if it is a ToolOutput.

    Raises:
        TypeError: it is another type.
    """
    if isinstance(result, ToolOutput):
        return result
    raise TypeError(f"{name!r} returned {type(result).__name__}; expected ToolOutput")
