"""An ORS episode as a Gymnasium environment."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, Protocol, Unpack

import gymnasium

from ors_gym.client.arguments import check_number, check_type, types_in_words
from ors_gym.client.client import ORSClient
from ors_gym.client.portal import Portal, shared_portal
from ors_gym.client.timeouts import Timeouts
from ors_gym.dialects import Action, dialect
from ors_gym.envs.async_env import CHOICES, AsyncORSEnv, EnvOptions, EnvRecipe
from ors_gym.envs.copying import CopiedByArguments, without_secrets
from ors_gym.envs.rendering import RENDER_MODES, render
from ors_gym.errors import PortalError
from ors_gym.redaction import Secret, reveal
from ors_gym.rollouts.options import session_options_of
from ors_gym.trajectory import TaskRef
from ors_gym.types import ToolList

__all__ = ["ORSEnv"]


class ORSEnv(CopiedByArguments, gymnasium.Env[Any, Action]):  # pyright: ignore[reportIncompatibleVariableOverride]  # spec
    """One episode of an ORS environment at a time.

    ::

        env = gym.make("ors_gym/ORS-v0", url="http://localhost:8080", env_name="wordle", split="train")
        observation, info = env.reset(seed=0)
        observation, reward, terminated, truncated, info = env.step({"name": "guess", "input": {"word": "crane"}})

    An action is a :class:`~ors_gym.types.ToolCall`, a mapping ``{"name", "input"}``, or text written by a model, which
    ``action_parser`` reads. The agent's mistakes (unreadable text, an unknown tool, refused input) are observations
    with a ``reason`` in ``info``. ``terminated`` is set by the environment, ``truncated`` by a limit. On infrastructure
    failure ``step`` raises the client's :class:`~ors_gym.errors.ORSError`; the episode then has no return, and the
    environment can be reset.

    For ``info`` see :class:`~ors_gym.envs.async_env.AsyncORSEnv`.

    Args:
        url: The server's URL.
        env_name: The environment's name; optional if the server has only one.
        render_mode: ``"ansi"`` (the episode so far, as text) or ``"rgb_array"`` (the latest image, or the text drawn as
            an image; needs Pillow).
        options: See :class:`~ors_gym.envs.async_env.EnvOptions`.
    """

    metadata: dict[str, Any] = {"render_modes": RENDER_MODES, "render_fps": 1}  # noqa: RUF012  (Gymnasium's own)

    @types_in_words
    def __init__(
        self,
        url: str | Secret,
        env_name: str | None = None,
        *,
        render_mode: str | None = None,
        **options: Unpack[EnvOptions],
    ) -> None:
        self._arguments = without_secrets({"url": url, "env_name": env_name, "render_mode": render_mode, **options})
        self.render_mode = checked_render_mode(render_mode)
        self._portal, self.recipe = look_up(url, env_name, options)
        self.action_space = self.recipe.action_space
        self.observation_space = self.recipe.observation_space
        self._episode = AsyncORSEnv(self.recipe)
        self._finalizer = release_when_collected(self, self._portal, self._episode)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode of ``options={"task": {…}}`` or ``{"task_index": …}``, or of a task drawn with the seed."""
        super().reset(seed=seed)
        task = self.recipe.named_task(options or {}) or self.recipe.draw_task(self.np_random)
        return self._portal.run(self._episode.reset(task))

    def step(self, action: Action) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one action; several calls of one message are made in order.

        Raises:
            ResetNeeded: there is no episode.
            ORSError: on infrastructure failure.
        """
        return self._portal.run(self._episode.step(action))

    def render(self) -> Any:
        """The episode in the render mode; None without one."""
        return render(self.render_mode, self._episode.transcript, self._episode.last_image)

    def close(self) -> None:
        """Close the session and wait until the server has deleted it. Idempotent."""
        if self._finalizer.detach() and self._portal.usable:
            self._portal.run(self._episode.close())

    def __str__(self) -> str:
        called = "" if self.spec is None else f"{self.spec.id}, "
        return f"<ORSEnv<{called}{self.recipe}>>"

    __repr__ = __str__

    @property
    def has_begun(self) -> bool:
        """Whether an episode has started."""
        return self._episode.task is not None

    @property
    def task(self) -> TaskRef | None:
        """The task of the episode, None before the first."""
        return self._episode.task

    @property
    def tools(self) -> ToolList:
        """The tools of the current episode, which may exceed the environment's; fetched on first use."""
        return self._portal.run(self._episode.list_tools())


def checked_render_mode(render_mode: str | None) -> str | None:
    """The render mode. Raises ValueError for an unknown one."""
    check_type("render_mode", render_mode, str)
    if render_mode not in (None, *RENDER_MODES):
        raise ValueError(f"unknown render_mode {render_mode!r}; choose one of {', '.join(RENDER_MODES)}")
    return render_mode


def look_up(url: str | Secret, env_name: str | None, options: EnvOptions) -> tuple[Portal, EnvRecipe]:
    """The process's portal, and the environment as the server describes it."""
    check_type("env_name", env_name, str)
    portal, client = client_of(url, options)
    return portal, portal.run(EnvRecipe.look_up(client, env_name, **options))


def client_of(url: str | Secret, options: EnvOptions) -> tuple[Portal, ORSClient]:
    """The process's portal and its client of the server, shared by all environments with the same URL and key.

    Raises ValueError for an unknown option, listing the known ones.
    """
    given = dict[str, Any](options)
    unknown = given.keys() - EnvOptions.__annotations__.keys()
    if unknown:  # not a TypeError, to which gym.make adds all arguments, including secrets
        known = ", ".join(sorted(EnvOptions.__annotations__))
        names = ", ".join(sorted(unknown))
        raise ValueError(f"unknown option {names}; the options besides url and env_name are {known}")
    _check_options(given)
    portal = shared_portal()
    named = {name: reveal(given[name]) for name in ("api_key", "hosted", "timeouts") if name in given}
    if isinstance(named.get("timeouts"), Mapping):  # from a spec in JSON
        named["timeouts"] = Timeouts(**named["timeouts"])
    return portal, portal.client(reveal(url), **(reveal(given.get("client_options")) or {}), **named)


class Closes(Protocol):
    """Something with a session."""

    async def close(self) -> None:
        """Close the session."""


def _check_options(given: Mapping[str, Any]) -> None:
    """Refuse options that are invalid for any server."""
    check_type("split", given.get("split"), str)
    for name, choices in CHOICES.items():
        check_type(name, chosen := given.get(name, choices[0]), str, none=False)
        if chosen not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {chosen!r}")
    check_number("max_turns", max_turns := given.get("max_turns"), whole=True)
    check_number("max_episode_seconds", max_seconds := given.get("max_episode_seconds"))
    if (max_turns is not None and max_turns < 1) or (max_seconds is not None and not max_seconds > 0):
        raise ValueError("max_turns must be at least 1 and max_episode_seconds positive, or None for no limit")
    check_number("penalty", given.get("penalty", 0.0), none=False)
    parser = given.get("action_parser", "hermes")
    if not hasattr(parser, "parse"):
        check_type("action_parser", parser, str, none=False, what="the name of a format, or a parser")
    dialect(parser)
    check_type("api_key", reveal(given.get("api_key")), str)
    session_options_of(given)
    check_type("client_options", reveal(given.get("client_options")), Mapping, what="a mapping")
    for name in ("api_key", "hosted", "timeouts"):
        if name in given and name in (reveal(given.get("client_options")) or {}):
            raise ValueError(f"{name} is given twice: as an argument and in client_options")


def release_when_collected(owner: object, portal: Portal, *episodes: Closes) -> weakref.finalize[Any, Any]:
    """Close the episodes' sessions when ``owner`` is garbage-collected unclosed; at exit the portal closes them."""
    finalizer = weakref.finalize(owner, _release, portal, episodes)
    finalizer.atexit = False
    return finalizer


def _release(portal: Portal, episodes: tuple[Closes, ...]) -> None:
    try:
        for episode in episodes:
            portal.submit(episode.close())  # not awaited: the garbage collector may run on any thread
    except PortalError:
        pass  # closed with every session, or in a forked child, whose parent owns the sessions
