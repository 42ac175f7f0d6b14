"""One episode of a Gymnasium environment, entirely on one thread."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from ors_gym.types import Block, Task, TextBlock, ToolOutput
from ors_gym_server.adapters.action_masks import mask_of, without_mask
from ors_gym_server.adapters.known_environments import Formatter, known_of
from ors_gym_server.adapters.observation_text import as_json, image_block, observation_blocks, plain_text
from ors_gym_server.adapters.seeding import reset

__all__ = ["AnyEnv", "EnvFactory", "GymnasiumEpisode", "Screen"]

AnyEnv: TypeAlias = gymnasium.Env[Any, Any]


@dataclass(frozen=True)
class EnvFactory:
    """How to construct and show an environment."""

    source: EnvSpec | Callable[..., AnyEnv]
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    render_mode: str | None = None
    """The render mode of :meth:`make`, and so the kind of its drawings."""
    observation_names: Sequence[str] | None = None
    formatter: Formatter | None = None
    action_names: Sequence[str] | None = None
    digits: int = 5
    show: str = "auto"
    """``"drawing"`` omits the observation, ``"observation"`` the drawing; ``"auto"`` shows what is useful."""
    info_keys: Sequence[str] = ()
    """Parts of the info to show."""
    any_action: bool = False
    """Whether to accept actions that the environment marks as impossible or useless."""

    def make(self) -> AnyEnv:
        """Construct an environment."""
        if isinstance(self.source, EnvSpec):
            return gymnasium.make(self.source, **{"disable_env_checker": True} | dict(self.arguments))
        return self.source(**self.arguments)


class Screen:
    """Shows the environment's observations as blocks of text and images."""

    def __init__(self, recipe: EnvFactory, env: AnyEnv) -> None:
        self._recipe, self._env = recipe, env
        known = known_of(env)
        self._names = recipe.observation_names or known.observation or feature_names_of(env)
        self._formatter = recipe.formatter or (None if recipe.observation_names else known.formatter)
        is_drawn = recipe.render_mode is not None
        self._shows_drawing = is_drawn and recipe.show != "observation"
        drawing_is_all = (
            known.is_drawn
            and recipe.render_mode == "ansi"
            and recipe.formatter is None
            and recipe.observation_names is None
        )
        self._shows_observation = not self._shows_drawing or (recipe.show != "drawing" and not drawing_is_all)
        self._may_do_anything = recipe.any_action or known.any_action
        self._mask: list[bool] | None = None
        self._text = ""
        """The last observation, where observations are texts: some environments repeat all that was said before."""

    def blocks(self, observation: Any, info: Mapping[str, Any]) -> tuple[Block, ...]:
        """The observation, the drawing, and the possible actions if the environment lists them."""
        blocks: list[Block] = []
        if self._shows_observation:
            blocks += self._observation(observation, info)
        shown = {key: info[key] for key in self._recipe.info_keys if key in info}
        for key, value in shown.items():
            named = value if isinstance(value, str | np.ndarray) else {key: value}
            blocks += observation_blocks(named, digits=self._recipe.digits)
        if self._shows_drawing and self._recipe.render_mode == "rgb_array":
            blocks.append(image_block(_as_picture(self._env.render())))
        elif self._shows_drawing:
            blocks.append(TextBlock(_without_last_action(plain_text(_as_text(self._env.render())))))
        self._mask = mask_of(self._env, observation, info)
        return (*blocks, *self._possible())

    def refusal(self, action: Any) -> str | None:
        """Why the action is not possible now; None if it is."""
        if self._mask is None or self._may_do_anything or not any(self._mask):
            return None
        number = int(action - self._start)
        return None if self._mask[number] else f"{self._name(number)} is not possible now. {self._told()}"

    @property
    def _start(self) -> int:
        return int(getattr(self._env.action_space, "start", 0))

    def _observation(self, observation: Any, info: Mapping[str, Any]) -> list[Block]:
        observation = without_mask(observation)
        if self._formatter is not None:
            return [TextBlock(self._formatter(observation, info))]
        if isinstance(observation, str):
            before, self._text = self._text, observation
            is_history = bool(before) and observation.startswith(f"{before.rstrip()}\n") and observation != before
            return [TextBlock(plain_text(observation[len(before.rstrip()) :] if is_history else observation))]
        return observation_blocks(observation, self._names, digits=self._recipe.digits)

    def _possible(self) -> list[Block]:
        return [] if self._mask is None or not any(self._mask) else [TextBlock(self._told())]

    def _told(self) -> str:
        names = ", ".join(self._name(number) for number, is_possible in enumerate(self._mask or ()) if is_possible)
        return f"{'actions of use now' if self._may_do_anything else 'actions now'}: {names}"

    def _name(self, number: int) -> str:
        names = self._recipe.action_names
        return str(number + self._start) if names is None else names[number]


def feature_names_of(env: AnyEnv) -> Sequence[str] | None:
    """The column names of highway-env's matrices, whose rows are vehicles with the player's first."""
    features = getattr(getattr(env.unwrapped, "observation_type", None), "features", None)
    shape = getattr(env.observation_space, "shape", None) or (0,)
    return [str(name) for name in features] if isinstance(features, list) and len(features) == shape[-1] else None


class GymnasiumEpisode:
    """The environment of one session. All methods run on one thread."""

    def __init__(self, recipe: EnvFactory) -> None:
        self._env = recipe.make()
        self._screen = Screen(recipe, self._env)

    def reset(self, task: Task) -> tuple[Block, ...]:
        """Start the episode of the task's ``seed`` and ``options``, and return what the agent sees first."""
        observation, info = reset(self._env, task.get("seed"), task.get("options"))
        return self._screen.blocks(observation, info)

    def refusal(self, action: Any) -> str | None:
        """Why the action is not possible now; None if it is."""
        return self._screen.refusal(action)

    def step(self, action: Any) -> ToolOutput:
        """Take one step. ``finished`` is either kind of end; the metadata has which."""
        observation, reward, terminated, truncated, info = self._env.step(action)
        metadata = {"terminated": bool(terminated), "truncated": bool(truncated), "info": as_json(info)}
        finished = bool(terminated or truncated)
        given = float(np.asarray(reward).item())  # some environments return an array with one number
        return ToolOutput(self._screen.blocks(observation, info), given, finished, metadata)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def _as_text(rendered: Any) -> str:
    return rendered if isinstance(rendered, str) else str(rendered.getvalue())  # a StringIO, in older environments


def _without_last_action(drawing: str) -> str:
    """The drawing without a line for the last action, as in ``(Right)``, which the player already knows."""
    return "\n".join(line for line in drawing.splitlines() if not re.fullmatch(r"\s*\([A-Z][a-z ]*\)\s*", line))


def _as_picture(rendered: Any) -> Any:
    if getattr(rendered, "ndim", None) == 3:
        return rendered
    raise TypeError(f'render_mode="rgb_array" gave {type(rendered).__name__} instead of an array of height, width, 3')
