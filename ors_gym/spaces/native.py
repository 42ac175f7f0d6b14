"""The protocol between client and server for stepping a Gymnasium environment in its own spaces over ordinary ORS.

A session is native if its task says so: ``{"gymnasium": {}}``, or with the fields of :class:`NativeOptions`. Such a
session answers four tools that no list of tools names; in every other session they do not exist, so a model cannot
reset its own episode. Their results have no blocks; the values stand in ``metadata``, as
:mod:`~ors_gym.spaces.native_values` writes them:

=====================  =====================  ======================================================================
tool                   input                  metadata
=====================  =====================  ======================================================================
``gymnasium_spaces``   ``{}``                 ``observation_space``, ``action_space`` (of one member), ``metadata``,
                                              ``spec`` (the id, or null)
``gymnasium_reset``    ``seed``, ``options``  ``observation``, ``info``
``gymnasium_step``     ``action``             ``observation``, ``reward``, ``terminated``, ``truncated``, ``info``
``gymnasium_render``   ``{}``                 ``frame``
=====================  =====================  ======================================================================

The session outlives the episode, as an environment does: ``finished`` is never set, and ``gymnasium_reset`` begins the
next episode with the environment's own random generator. With ``num_envs`` the session holds a vector environment.
"""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# Spaces and their values are of any type, which pyright calls unknown when it narrows them.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

__all__ = ["MAX_ENVS", "NATIVE_TASK", "RENDER", "RESET", "SPACES", "STEP", "NativeOptions"]

NATIVE_TASK = "gymnasium"
"""The key of a task that marks a session as native."""

SPACES, RESET, STEP, RENDER = "gymnasium_spaces", "gymnasium_reset", "gymnasium_step", "gymnasium_render"

MAX_ENVS = 1024
"""The largest vector environment that one session may hold."""

_KINDS: Mapping[str, type] = {
    "num_envs": int,
    "autoreset_mode": str,
    "max_episode_steps": int,
    "split": str,
    "render_mode": str,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeOptions:
    """The settings of a native session."""

    num_envs: int | None = None
    """Number of members of a vector environment; None: a single environment."""
    autoreset_mode: str = "NextStep"
    """Of a vector environment, in Gymnasium's words."""
    max_episode_steps: int | None = None
    """Steps until an episode is truncated, in addition to the environment's own limit."""
    split: str | None = None
    """Draw each episode from the tasks of a split; None: the seeds are the caller's."""
    render_mode: str | None = None

    @property
    def task(self) -> dict[str, Any]:
        """The task of a session with these options."""
        default = NativeOptions()
        names = (field.name for field in fields(self))
        given = {name: getattr(self, name) for name in names if getattr(self, name) != getattr(default, name)}
        return {NATIVE_TASK: given}

    @classmethod
    def of_task(cls, task: Mapping[str, Any]) -> Self:
        """The options of a native session's task.

        Raises:
            ValueError: they have no meaning.
        """
        given = task[NATIVE_TASK]
        if not isinstance(given, Mapping):
            raise ValueError(f"{NATIVE_TASK!r} of a task must be an object, not {type(given).__name__}")
        for name, value in given.items():
            kind = _KINDS.get(name)
            if kind is None:
                raise ValueError(f"{NATIVE_TASK!r} of a task has no {name!r}; it has {', '.join(_KINDS)}")
            if value is not None and type(value) is not kind:
                raise ValueError(f"{name} must be {kind.__name__}, not {type(value).__name__}")
        options = cls(**{name: value for name, value in given.items() if value is not None})
        if options.num_envs is not None and not 1 <= options.num_envs <= MAX_ENVS:
            raise ValueError(f"num_envs must be 1 to {MAX_ENVS} in one session, not {options.num_envs}")
        if options.max_episode_steps is not None and options.max_episode_steps < 1:
            raise ValueError("max_episode_steps must be at least 1")
        return options
