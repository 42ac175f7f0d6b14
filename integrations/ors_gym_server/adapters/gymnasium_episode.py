"""One episode of a Gymnasium environment, all of it on one thread."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from ors_gym.types import Block, Task, TextBlock, ToolOutput
from ors_gym_server.adapters.known_environments import Formatter, known_of
from ors_gym_server.adapters.observation_text import as_json, image_block, observation_blocks, plain_text

__all__ = ["AnyEnv", "EnvFactory", "GymnasiumEpisode", "Screen", "about"]

AnyEnv: TypeAlias = gymnasium.Env[Any, Any]


@dataclass(frozen=True)
class EnvFactory:
    """How an environment is made and shown."""

    source: EnvSpec | Callable[..., AnyEnv]
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    render_mode: str | None = None
    """What :meth:`make` makes it with, so what its drawings are."""
    observation_names: Sequence[str] | None = None
    formatter: Formatter | None = None
    action_names: Sequence[str] | None = None
    digits: int = 5

    def make(self) -> AnyEnv:
        """A new environment."""
        if isinstance(self.source, EnvSpec):
            return gymnasium.make(self.source, **{"disable_env_checker": True} | dict(self.arguments))
        return self.source(**self.arguments)


class Screen:
    """Shows what an environment says, as blocks of text and images."""

    def __init__(self, recipe: EnvFactory, env: AnyEnv) -> None:
        self._recipe, self._env = recipe, env
        known = known_of(env)
        self._names = recipe.observation_names or known.observation
        self._formatter = recipe.formatter or (None if recipe.observation_names else known.formatter)

    def blocks(self, observation: Any, info: Mapping[str, Any]) -> tuple[Block, ...]:
        """The observation, what the environment draws now, and the actions of use where it says so."""
        blocks: list[Block]
        if self._formatter is not None:
            blocks = [TextBlock(self._formatter(observation, info))]
        else:
            blocks = observation_blocks(observation, self._names, digits=self._recipe.digits)
        if self._recipe.render_mode == "ansi":
            blocks.append(TextBlock(plain_text(_as_text(self._env.render()))))
        elif self._recipe.render_mode == "rgb_array":
            blocks.append(image_block(_as_picture(self._env.render())))
        return (*blocks, *self._of_use(info))

    def _of_use(self, info: Mapping[str, Any]) -> list[Block]:
        """What Taxi and others tell in ``info["action_mask"]``."""
        names, mask = self._recipe.action_names, info.get("action_mask")
        if names is None or mask is None or len(mask) != len(names):
            return []
        useful = [name for name, is_useful in zip(names, mask, strict=True) if is_useful]
        return [TextBlock(f"actions of use now: {', '.join(useful)}")]


class GymnasiumEpisode:
    """The environment of one session. All methods are called on one thread."""

    def __init__(self, recipe: EnvFactory) -> None:
        self._env = recipe.make()
        self._screen = Screen(recipe, self._env)

    def reset(self, task: Task) -> tuple[Block, ...]:
        """Begin the episode of the task's ``seed`` and ``options``: what the agent sees first."""
        observation, info = self._env.reset(seed=task.get("seed"), options=task.get("options"))
        return self._screen.blocks(observation, info)

    def step(self, action: Any) -> ToolOutput:
        """One step. ``finished`` is either ending; which of the two is in the metadata."""
        observation, reward, terminated, truncated, info = self._env.step(action)
        metadata = {"terminated": bool(terminated), "truncated": bool(truncated), "info": as_json(info)}
        finished = bool(terminated or truncated)
        given = float(np.asarray(reward).item())  # a few environments give an array of one number
        return ToolOutput(self._screen.blocks(observation, info), given, finished, metadata)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def _as_text(rendered: Any) -> str:
    return rendered if isinstance(rendered, str) else str(rendered.getvalue())  # a StringIO, in older environments


def _as_picture(rendered: Any) -> Any:
    if getattr(rendered, "ndim", None) == 3:
        return rendered
    raise TypeError(f'render_mode="rgb_array" gave {type(rendered).__name__} instead of an array of height, width, 3')


_HEADING = re.compile(r"^\s*#+ *(.+?) *$", re.MULTILINE)
_TOLD = ("description", "mission space", "rewards", "episode end", "episode termination", "termination", "truncation")
_LONGEST_SECTION = 3000
"""Characters. The tables of MuJoCo's observations are longer, and no model plays better for them."""


def about(env: AnyEnv, *, actions: bool = True, observations: bool = True) -> str:
    """What the environment's own documentation tells a player, with what it says of actions and observations or not."""
    classes = itertools.takewhile(lambda cls: cls is not gymnasium.Env, type(env.unwrapped).__mro__)
    document = next((cls.__doc__ for cls in classes if cls.__doc__), "")
    before, *sections = _HEADING.split(inspect.cleandoc(document))
    told = [before.strip()]
    spaces = {"action space": actions, "observation space": observations}
    wanted = (*_TOLD, *(title for title, is_told in spaces.items() if is_told))
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        if title.lower() in wanted and 0 < len(text.strip()) <= _LONGEST_SECTION:
            told.append(f"{title}\n{inspect.cleandoc(text)}")
    return "\n\n".join(part for part in told if 0 < len(part) <= _LONGEST_SECTION)
