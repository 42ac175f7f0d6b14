"""The options of a session, with the same names wherever episodes are played."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeAlias, TypedDict, cast

from ors_gym.client.arguments import check_type
from ors_gym.client.client import ORSClient
from ors_gym.client.creation import Secrets, check_secrets
from ors_gym.client.session import Session
from ors_gym.redaction import Secret, reveal
from ors_gym.trajectory import TaskRef
from ors_gym.types import ToolList

__all__ = [
    "SESSION_OPTIONS",
    "SessionOptions",
    "ToolErrors",
    "check_session_options",
    "open_session",
    "session_options_of",
]

ToolErrors: TypeAlias = Literal["observe", "fail"]
"""How tool errors are handled while the session continues."""


class SessionOptions(TypedDict, total=False):
    """Shared by ``gym.make``, ``EpisodeRunner``, ``RolloutPool``, ``ORSRollouts`` and the command line."""

    secrets: Secrets | Secret | None
    """Values the environment may use, by name, or pairs of a value and the domains it may be sent to. Passed to each
    session; in no log, error or trajectory."""
    toolset: str | None
    """The name of a set of tools that the server adds to the environment's."""
    tools: ToolList | None
    """The tools, where they are known to be the same for every task: saves one request per episode."""
    parallel_tool_calls: bool | Collection[str]
    """Which calls of one message run at once: those of the tools named here, or all (True). None by default. The
    standard does not say whether two tools of a session may run at once; the environment's author knows. Neighbours in
    a message that may run at once do; any other call waits for those before it, and those after it wait for it."""
    tool_errors: ToolErrors
    """What becomes of a tool that raised while its session lives on. ``"observe"``, the default: the agent reads
    ``Error: …`` as the result, with the reason ``tool_error``, and the episode goes on; those of three messages in a
    row, without another call between them, fail it. ``"fail"``: the episode fails."""


SESSION_OPTIONS = tuple(SessionOptions.__annotations__)
"""The names of the options."""


def check_session_options(options: SessionOptions) -> SessionOptions:
    """``options`` as they are.

    Raises:
        ValueError: an option has no meaning or a wrong type, or another name was given.
    """
    unknown = sorted(options.keys() - set(SESSION_OPTIONS))
    if unknown:
        raise ValueError(f"unknown options {', '.join(unknown)}; a session has {', '.join(SESSION_OPTIONS)}")
    check_secrets(reveal(options.get("secrets")))
    check_type("toolset", options.get("toolset"), str)
    check_type("tools", options.get("tools"), ToolList)
    parallel: object = options.get("parallel_tool_calls", False)
    if not isinstance(parallel, bool):
        names = "True, False or a collection of tools' names"
        check_type("parallel_tool_calls", parallel, list, tuple, set, frozenset, none=False, what=names)
    check_type("tool_errors", options.get("tool_errors", "observe"), str, none=False)
    if options.get("tool_errors", "observe") not in ("observe", "fail"):
        raise ValueError(f"tool_errors must be 'observe' or 'fail', not {options.get('tool_errors')!r}")
    return options


def session_options_of(options: Mapping[str, Any]) -> SessionOptions:
    """The session's among options of more kinds, checked."""
    own = {name: reveal(options[name]) for name in SESSION_OPTIONS if name in options}
    return check_session_options(cast("SessionOptions", own))


def open_session(client: ORSClient, task: TaskRef, options: SessionOptions) -> Session:
    """A session of ``task``, not yet opened."""
    return client.session(
        task.env_name,
        split=task.split,
        index=task.index,
        task=None if task.by_index else task.task,
        secrets=reveal(options.get("secrets")),
        toolset=options.get("toolset"),
    )
