"""Gymnasium environments as ORS environments.

::

    FrozenLake = as_ors_environment("FrozenLake-v1", is_slippery=False)
    app = create_app([FrozenLake])

A task is a seed: its episode starts with ``env.reset(seed=seed)``, and the same actions have the same results as in the
environment itself. Each tool call is one step, with its reward. Learners other than language models use the
environment's own spaces through the same class; see :mod:`ors_gym.spaces.native`.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium
from gymnasium.envs.registration import EnvSpec, parse_env_id

from ors_gym.spaces import TextSpace
from ors_gym.spaces.native import NATIVE_TASK, NativeOptions
from ors_gym.types import Block, Split, Task, TextBlock, ToolList, ToolOutput, shown_blocks
from ors_gym_server.adapters.action_tools import ActionTools, InvalidActionError
from ors_gym_server.adapters.gymnasium_episode import AnyEnv, EnvFactory, GymnasiumEpisode, Screen
from ors_gym_server.adapters.known_environments import Formatter, action_names_of, known_of
from ors_gym_server.adapters.native_episode import NativeEpisode
from ors_gym_server.adapters.rules import has_no_rules, rules_of
from ors_gym_server.adapters.seed_tasks import SeedTasks, Tasks
from ors_gym_server.adapters.seeding import warn_of_ignored_seeds
from ors_gym_server.authoring.environment import Environment

__all__ = ["GymnasiumEnvironment", "as_ors_environment"]

DEFAULT_SPLITS: Mapping[str, Tasks] = {"train": range(1000), "validation": range(1000, 1100), "test": range(1100, 1200)}


_BEGINNING = threading.Lock()
"""Held while the first episode of a class starts: environments import their rendering packages on first use, and
concurrent imports of pygame on two threads fail."""


class GymnasiumEnvironment(Environment):
    """One episode of a Gymnasium environment. :func:`as_ors_environment` creates its classes."""

    recipe: ClassVar[EnvFactory]
    tools: ClassVar[ActionTools]
    tasks: ClassVar[SeedTasks]
    instructions: ClassVar[str]
    is_told: ClassVar[bool]
    """Whether an agent receives the rules, from the instructions or the environment's documentation."""

    _has_begun: ClassVar[bool] = False
    _episode: GymnasiumEpisode | None = None
    _native: NativeEpisode | str | None = None
    """For a session in native spaces: the episode, or the reason why there is none."""
    _first: tuple[Block, ...] = ()
    _finished = False

    @classmethod
    def list_splits(cls) -> Sequence[Split | str]:
        """The splits given to the class."""
        return cls.tasks.splits

    @classmethod
    def list_tasks(cls, split: str) -> Sequence[Task]:
        """The split's tasks: ``{"id", "seed"}``, and ``options`` if there are any."""
        return cls.tasks.all(split)

    @classmethod
    def num_tasks(cls, split: str) -> int:
        """The number of seeds in the split."""
        return cls.tasks.count(split)

    @classmethod
    def get_task(cls, split: str, index: int) -> Task:
        """The task at ``index``."""
        return cls.tasks.at(split, index)

    @classmethod
    def get_task_range(cls, split: str, start: int | None = None, stop: int | None = None) -> Sequence[Task]:
        """The tasks ``start`` to ``stop``."""
        return cls.tasks.between(split, start, stop)

    @classmethod
    def list_tools(cls) -> ToolList:
        """The action space as tools."""
        return ToolList(cls.tools.specs)

    def setup(self) -> None:
        """Construct the environment and reset it."""
        cls = type(self)
        with contextlib.nullcontext() if cls._has_begun else _BEGINNING:
            if NATIVE_TASK in self.task_spec:
                self._native = self._begin_native()
            else:
                self._episode = GymnasiumEpisode(self.recipe)
                self._first = self._episode.reset(self.task_spec)
        cls._has_begun = True

    def _begin_native(self) -> NativeEpisode | str:
        try:
            return NativeEpisode(self.recipe, self.tasks, NativeOptions.of_task(self.task_spec))
        except ValueError as error:
            return str(error)

    def teardown(self) -> None:
        """Close the environment."""
        if self._episode is not None:
            episode, self._episode = self._episode, None
            episode.close()
        if isinstance(self._native, NativeEpisode):
            native, self._native = self._native, None
            native.close()

    def get_prompt(self) -> Sequence[Block]:
        """The instructions and the first observation."""
        return [TextBlock(f"{self.instructions}\n"), *self._first] if self.instructions else self._first

    def call_tool(self, name: str, input: Mapping[str, Any]) -> ToolOutput:
        """Take one step. An invalid action does not change the episode."""
        if isinstance(self._native, NativeEpisode):
            return self._native.call(name, input)
        if self._native is not None:
            return ToolOutput(ok=False, error=self._native, reason="input_validation")
        if self._episode is None:
            raise RuntimeError("the session has no episode: setup() has not run, or teardown() has")
        if self._finished:
            return ToolOutput(ok=False, error="The episode is over.", reason="episode_finished")
        try:
            action = self.tools.action(name, input)
        except InvalidActionError as error:
            return ToolOutput(ok=False, error=str(error), reason=error.reason)
        refusal = self._episode.refusal(action)
        if refusal is not None:
            return ToolOutput(ok=False, error=refusal, reason="input_validation")
        output = self._episode.step(action)
        self._finished = output.finished
        return output


def as_ors_environment(
    env: str | EnvSpec | Callable[..., AnyEnv],
    *,
    name: str | None = None,
    splits: Mapping[str, Tasks] | None = None,
    action_names: Sequence[str] | None = None,
    action_examples: Sequence[str] = (),
    tool_per_action: bool = False,
    observation_names: Sequence[str] | None = None,
    formatter: Formatter | None = None,
    render_mode: str | None = "auto",
    show: str = "auto",
    info_keys: Sequence[str] = (),
    any_action: bool = False,
    instructions: str | None = None,
    digits: int = 5,
    one_thread: bool = False,
    check_seeds: bool = True,
    **arguments: Any,
) -> type[GymnasiumEnvironment]:
    """Convert a Gymnasium environment to an ORS environment, for this package's server or, with ``as_openreward``, the
    SDK's.

    One environment is constructed and closed immediately to read its action space. CPU-bound environments belong in
    worker processes, which the server starts (``workers`` of :func:`~ors_gym_server.run.serve`).

    Args:
        env: An id (``"FrozenLake-v1"``, ``"module:Id-v0"``), a spec, or a function that creates an environment.
        name: The name of the class and the environment (default: the id without namespace and version).
        splits: The seeds of each split, as a range or a sequence; in place of a seed there may be a mapping of
            ``seed``, of ``options`` for ``reset`` (such as the file of a game), or of both. No task may be in two
            splits. The default has 1,000 for ``train``, 100 for ``validation`` and 100 for ``test``.
        action_names: Names of the actions; see :class:`~ors_gym_server.adapters.action_tools.ActionTools`. By default
            the environment's known names (:mod:`ors_gym_server.adapters.known_environments`).
        action_examples: Of actions that are texts, such as ``["[up]", "[down]"]``: agents read them. Random policies
            and the trial before serving play them, since they know no others.
        tool_per_action: Each named action is its own tool, instead of a value of the tool ``step``.
        observation_names: Names of the observation's components.
        formatter: ``formatter(observation, info)`` formats the observation as text, instead of
            :mod:`ors_gym_server.adapters.observation_text`.
        render_mode: ``"ansi"`` adds the environment's text rendering, ``"rgb_array"`` an image; None neither.
            ``"auto"`` is ``"ansi"`` if the environment supports it; an environment from a function keeps its own render
            mode.
        show: ``"drawing"`` omits the observation, ``"observation"`` the drawing. ``"auto"`` shows both, unless one is
            known to contain the other.
        info_keys: Parts of the info to show, for environments whose board is in the info.
        any_action: Accept actions that the environment marks as impossible; by default they are refused. (The possible
            ones are listed in either case.)
        instructions: The first message to the agent (default: the task description from the environment's
            documentation). An empty text leaves only the first observation.
        digits: Number of significant digits of fractions.
        one_thread: All sessions of a process run on one thread, for environments whose rendering is not thread-safe.
        check_seeds: Reset the environment twice with the same seed, and log a warning if the two episodes differ.
        **arguments: Arguments of ``gymnasium.make`` or of the function.

    Raises:
        gymnasium.error.Error: There is no such environment.
        ValueError: The names do not fit the action space, splits overlap, or the render mode is unsupported.
        UnsupportedSpaceError: The action space is not one of Gymnasium's kinds.
    """
    source = _spec_of(env) if isinstance(env, str) else env
    probe = EnvFactory(source, arguments).make()
    try:
        names = action_names_of(probe) if action_names is None else tuple(action_names)
        env_name = _env_name(source, probe, name)
        tools = ActionTools(
            probe.action_space,
            names,
            description=f"Take one step in {env_name}.",
            tool_per_action=tool_per_action,
            examples=action_examples,
        )
        if show not in ("auto", "drawing", "observation"):
            raise ValueError(f'show must be "auto", "drawing" or "observation", not {show!r}')
        mode = None if show == "observation" else _render_mode(render_mode, source, probe)
        if show == "drawing" and mode is None:
            raise ValueError(f"there is no drawing to show: the environment has {_modes(probe)}")
        is_told = bool(instructions)
        if instructions is None:
            known = known_of(probe)
            is_named = bool(observation_names or known.observation)
            is_shown = is_named or bool(formatter or known.formatter) or (known.is_drawn and mode == "ansi")
            told = rules_of(probe, actions=tools.names is None, observations=not is_shown and show != "drawing")
            speaks = isinstance(probe.observation_space, TextSpace | gymnasium.spaces.Text)
            is_told = speaks or not has_no_rules(told)  # a game of text says its own rules
            instructions = f"You play {env_name}.\n\n{told}".strip()
        recipe = EnvFactory(
            source,
            arguments if mode is None or mode == probe.render_mode else arguments | {"render_mode": mode},
            mode,
            observation_names,
            formatter,
            tools.names,
            digits,
            show,
            tuple(info_keys),
            any_action,
        )
        if check_seeds:
            screen = Screen(replace(recipe, render_mode=None, show="observation"), probe)
            warn_of_ignored_seeds(probe, env_name, lambda seen, info: shown_blocks(screen.blocks(seen, info)))
    finally:
        probe.close()
    attributes = {
        "__doc__": f"{env_name} as an ORS environment.",
        "recipe": recipe,
        "tools": tools,
        "tasks": SeedTasks(DEFAULT_SPLITS if splits is None else splits),
        "instructions": instructions,
        "is_told": is_told,
        "one_thread": one_thread,
    }
    return type(name or _class_name(env_name), (GymnasiumEnvironment,), attributes)


def _spec_of(env_id: str) -> EnvSpec:
    """The spec itself, so that worker processes need not import the module that registered the id."""
    module, colon, rest = env_id.partition(":")
    if colon:
        importlib.import_module(module)  # it registers the id
    return gymnasium.spec(rest if colon else env_id)


def _env_name(source: EnvSpec | Callable[..., AnyEnv], env: AnyEnv, name: str | None) -> str:
    """The id; without one, the name given."""
    if isinstance(source, EnvSpec):
        return source.id
    return env.spec.id if env.spec is not None else name or type(env.unwrapped).__name__.removesuffix("Env")


def _class_name(env_name: str) -> str:
    """``ALE/Pong-v5`` → ``Pong``: the name in URLs and for ``--env``."""
    with contextlib.suppress(gymnasium.error.Error):
        env_name = parse_env_id(env_name)[1]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", env_name).strip("_") or "Environment"


def _render_mode(wanted: str | None, source: EnvSpec | Callable[..., AnyEnv], env: AnyEnv) -> str | None:
    offered: Sequence[str] = env.metadata.get("render_modes") or ()
    if wanted == "auto" and env.render_mode in ("ansi", "rgb_array"):  # set by a function or an argument
        return env.render_mode
    if wanted == "auto":
        return "ansi" if "ansi" in offered and isinstance(source, EnvSpec) and not known_of(env).is_told else None
    if wanted not in (None, "ansi", "rgb_array"):
        raise ValueError(f'render_mode must be "auto", "ansi", "rgb_array" or None, not {wanted!r}')
    if wanted is not None and wanted not in offered:
        raise ValueError(f"the environment has no render_mode {wanted!r}; it has {_modes(env)}")
    return wanted


def _modes(env: AnyEnv) -> str:
    return ", ".join(env.metadata.get("render_modes") or ()) or "none"
