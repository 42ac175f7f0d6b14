"""PettingZoo environments: one agent learns, policies play the others.

::

    from pettingzoo.classic import tictactoe_v3
    TicTacToe = from_pettingzoo(tictactoe_v3.env)

A :class:`OneAgent` is a Gymnasium environment whose episode consists of its agent's turns, so everything else,
including seeds as tasks and native spaces, is that of :func:`~ors_gym_server.adapters.gymnasium.as_ors_environment`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from ors_gym_server.adapters.action_names import names_in
from ors_gym_server.adapters.action_tools import names_fit
from ors_gym_server.adapters.gymnasium import GymnasiumEnvironment, as_ors_environment
from ors_gym_server.adapters.rules import players_text

__all__ = ["OneAgent", "OtherPolicy", "Turn", "from_pettingzoo", "random_action"]


@dataclass(frozen=True, slots=True)
class Turn:
    """The input of a policy that plays another agent."""

    agent: str
    observation: Any
    info: Mapping[str, Any]
    action_space: gymnasium.Space[Any]
    action_mask: Any
    """The legal actions, if the environment lists them, else None."""
    rng: np.random.Generator
    """Seeded with the episode: policies that draw from it play a task the same way each time."""


OtherPolicy: TypeAlias = Callable[[Turn], Any]
"""Returns the action of an agent that does not learn."""


def random_action(turn: Turn) -> Any:
    """A legal action, drawn uniformly."""
    turn.action_space.seed(int(turn.rng.integers(2**31)))
    if turn.action_mask is None:
        return turn.action_space.sample()
    return turn.action_space.sample(np.asarray(turn.action_mask, np.int8))


def from_pettingzoo(
    make: Callable[..., Any],
    *,
    agent: str | int = 0,
    others: OtherPolicy | Mapping[str, OtherPolicy] = random_action,
    name: str | None = None,
    **options: Any,
) -> type[GymnasiumEnvironment]:
    """Convert one agent's side of a PettingZoo environment to an ORS environment.

    Args:
        make: A function of either kind: ``tictactoe_v3.env`` (agents take turns) or ``pistonball_v6.parallel_env``.
        agent: The agent that learns: its name, or its index in ``possible_agents``.
        others: The policy of the other agents, or one for each by name. By default legal actions at random.
        name: The name of the class (default: the game's, without its version).
        **options: Options of :func:`~ors_gym_server.adapters.gymnasium.as_ors_environment`, and arguments of ``make``.

    Raises:
        ValueError: there is no such agent, or an agent has no policy.
    """
    accepted = inspect.signature(as_ors_environment).parameters
    own = {key: options.pop(key) for key in list(options) if key in accepted and key != "render_mode"}
    if options.get("render_mode") is None:
        options.pop("render_mode", None)

    def factory() -> OneAgent:
        return OneAgent(make(**options), agent, others)

    probe = factory()
    try:
        assert probe.spec is not None
        title = probe.spec.name
        documentation = documentation_of(probe.game)
        if "action_names" not in own and isinstance(probe.action_space, gymnasium.spaces.Discrete):
            own["action_names"] = _action_names(title, documentation, probe.action_space)
        if "formatter" not in own and is_board(probe.observation_space):
            own["formatter"] = board if not title.startswith(COLUMN_BY_COLUMN) else _turned_board
        who = (
            f"You play {title} as {probe.agent}. A step is your move and the other agents' until you are to move again."
        )
        own.setdefault("instructions", f"{who}\n\n{rules_in(documentation)}".strip())
    finally:
        probe.close()
    made = as_ors_environment(factory, name=name or title, **own)
    made.__doc__ = f"{title} as an ORS environment, of one of its agents."
    return made


class OneAgent(gymnasium.Env[Any, Any]):
    """A PettingZoo environment from the view of one agent."""

    def __init__(self, game: Any, agent: str | int, others: OtherPolicy | Mapping[str, OtherPolicy]) -> None:
        self.game = game if hasattr(game, "agent_iter") else _in_turns(game)
        agents: list[str] = list(self.game.possible_agents)
        if agent not in (agents if isinstance(agent, str) else range(len(agents))):
            raise ValueError(f"there is no agent {agent!r}; there is {', '.join(agents)}")
        self.agent = agent if isinstance(agent, str) else agents[agent]
        self._others = dict.fromkeys(agents, others) if callable(others) else dict(others)
        missing = [each for each in agents if each != self.agent and each not in self._others]
        if missing:
            raise ValueError(f"missing policy for {', '.join(missing)}")
        self.observation_space = self.game.observation_space(self.agent)
        self.action_space = self.game.action_space(self.agent)
        self.metadata = dict(self.game.metadata)
        self.render_mode = getattr(self.game, "render_mode", None)
        title = re.sub(r"\W+", "_", str(self.metadata.get("name") or type(self.game.unwrapped).__name__))
        self.spec = EnvSpec(re.sub(r"_v(\d+)$", r"-v\1", title))
        self._last: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a game, and play until the agent's first turn."""
        super().reset(seed=seed)
        self.game.reset(seed=seed, options=options)
        observation, _, _, _, info = self._play_on()
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move, and play until the agent's next turn or its end."""
        self.game.step(action)
        return self._play_on()

    def _play_on(self) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = 0.0
        while self.game.agents:
            agent = self.game.agent_selection
            observation, reward, terminated, truncated, info = self.game.last()
            if agent == self.agent:
                mask = _mask(observation, info)
                told = dict(info) if mask is None else {**info, "action_mask": mask}
                self._last = observation
                return observation, float(reward), bool(terminated), bool(truncated), told
            over = terminated or truncated
            self.game.step(None if over else self._action(agent, observation, info))
        return self._last, 0.0, True, False, {}  # the agent was removed without a last turn

    def _action(self, agent: str, observation: Any, info: Mapping[str, Any]) -> Any:
        turn = Turn(agent, observation, info, self.game.action_space(agent), _mask(observation, info), self.np_random)
        return self._others[agent](turn)

    def render(self) -> Any:
        """The game's frame."""
        return self.game.render()

    def close(self) -> None:
        """Close the game."""
        self.game.close()


def _in_turns(game: Any) -> Any:
    from pettingzoo.utils.conversions import parallel_to_aec

    return parallel_to_aec(game)


def _mask(observation: Any, info: Mapping[str, Any]) -> Any:
    inside = observation if isinstance(observation, Mapping) else {}
    return inside.get("action_mask", info.get("action_mask"))


# -------------------------------------------------------------------- what a model reads


def is_board(space: gymnasium.Space[Any]) -> bool:
    """Whether observations are a board: two planes of zeros and ones, with the agent's pieces first."""
    inner = space.spaces.get("observation") if isinstance(space, gymnasium.spaces.Dict) else space
    if not isinstance(inner, gymnasium.spaces.Box) or len(inner.shape) != 3:
        return False
    return inner.shape[-1] == 2 and max(inner.shape) <= 64 and bool(np.all(inner.high == 1))


def board(observation: Any, info: Mapping[str, Any]) -> str:
    """Two planes as a board, one row per line."""
    planes = np.asarray(observation["observation"] if isinstance(observation, Mapping) else observation)
    rows = [" ".join("X" if own else "O" if other else "." for own, other in row) for row in planes]
    return "\n".join(["X is you, O the other:", *rows])


COLUMN_BY_COLUMN = ("tictactoe",)
"""Environments whose planes are transposed."""


def _turned_board(observation: Any, info: Mapping[str, Any]) -> str:
    planes = observation["observation"] if isinstance(observation, Mapping) else observation
    return board(np.swapaxes(planes, 0, 1), info)


def documentation_of(game: Any) -> str:
    """The documentation of the environment's module, where PettingZoo documents the rules."""
    module = inspect.getmodule(type(game.unwrapped))
    inner: Any = getattr(game.unwrapped, "env", None)
    if hasattr(inner, "unwrapped"):  # a parallel environment converted to turns
        module = inspect.getmodule(type(inner.unwrapped))
    return inspect.cleandoc((module and module.__doc__) or "")


_TOLD = ("action space", "rewards", "scoring")
_LONGEST = 3000
_DRAWING = re.compile(r"^ *```\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
"""Boards, between fences that name no language."""


def rules_in(documentation: str) -> str:
    """The introduction and the sections on actions and rewards, without images, links and version tables."""
    text = re.sub(r"^```\{.*?^```\s*$", "", documentation, flags=re.DOTALL | re.MULTILINE)
    introduction, *sections = re.split(r"^(?=#{2,4} )", text, flags=re.MULTILINE)
    kept = ["\n".join(line for line in introduction.splitlines() if not re.match(r"\s*(#|\||<)", line))]
    for section in sections:
        heading, _, body = section.partition("\n")
        if heading.strip("# ").lower() in _TOLD and body.strip():
            kept.append(f"{heading.strip('# ')}:\n{body.strip()}")
    drawings = re.findall(_DRAWING, "\n".join(kept))
    numbers = iter(range(len(drawings)))
    told = [players_text(re.sub(_DRAWING, lambda _: f"\n(drawing {next(numbers)})\n", part)) for part in kept]
    plain = "\n\n".join(part for part in told if part).replace("`", "")
    for number, drawing in enumerate(drawings):
        plain = plain.replace(f"(drawing {number})", drawing.strip("\n"))
    return plain[:_LONGEST].strip()


_NAMES = {
    "cooperative_pong": ("nothing", "up", "down"),
    "pursuit": ("left", "right", "up", "down", "stay"),
    "rps": ("rock", "paper", "scissors"),
}
"""Of actions that the documentation tells in prose, or not in order."""


def _action_names(title: str, documentation: str, space: gymnasium.spaces.Discrete[Any]) -> Sequence[str] | None:
    """The names of the actions, where they are known or the documentation lists all of them in order."""
    known = _NAMES.get(title, ())
    if names_fit(space, known):
        return known
    section = re.search(r"^#+ Actions?(?: Space)?$(.*?)(?=^#|\Z)", documentation, re.MULTILINE | re.DOTALL)
    return names_in(section[1], space) or None if section else None
