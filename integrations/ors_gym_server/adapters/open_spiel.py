"""OpenSpiel games: one player learns, policies play the others, and chance is drawn from the seed.

::

    Kuhn = from_open_spiel("kuhn_poker")

The model reads what its player may see and the legal moves by name; other learners get the game's tensor.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ors_gym_server.adapters.gymnasium import GymnasiumEnvironment, as_ors_environment

__all__ = ["OneSeat", "SeatPolicy", "from_open_spiel", "random_move"]

SeatPolicy: TypeAlias = Callable[[Any, np.random.Generator], int]
"""``policy(state, rng)`` returns the move of the state's current player; ``rng`` is seeded with the episode."""


def random_move(state: Any, rng: np.random.Generator) -> int:
    """A legal move, drawn uniformly."""
    return int(rng.choice(state.legal_actions()))


def from_open_spiel(
    game: str,
    *,
    player: int = 0,
    others: SeatPolicy = random_move,
    name: str | None = None,
    instructions: str | None = None,
    **options: Any,
) -> type[GymnasiumEnvironment]:
    """Convert one player's side of an OpenSpiel game to an ORS environment.

    Args:
        game: The argument of ``pyspiel.load_game``, including parameters: ``"connect_four"``, ``"hex(board_size=5)"``.
        player: The player that learns.
        others: The policy of the other players; by default legal moves at random.
        name: The name of the class (default: the game's).
        instructions: The first message to the agent (default: the game's name and the form of moves).
        **options: Options of :func:`~ors_gym_server.adapters.gymnasium.as_ors_environment`.

    Raises:
        ValueError: there is no such player.
    """

    def factory() -> OneSeat:
        return OneSeat(game, player, others)

    probe = factory()
    if instructions is None:
        kind = probe.game.get_type()
        rewards = f"{probe.game.min_utility():g} to {probe.game.max_utility():g}"
        instructions = (
            f"You play {kind.long_name} as player {player} of {probe.game.num_players()}. "
            f"Each move is given by its number; the legal ones are listed. Rewards sum to {rewards}."
        )
    default = re.sub(r"\W+", "_", game.partition("(")[0])
    options.setdefault("formatter", _as_told)
    return as_ors_environment(factory, name=name or default, instructions=instructions, **options)


def _as_told(observation: Any, info: Mapping[str, Any]) -> str:
    return str(info["text"])


class OneSeat(gymnasium.Env[Any, Any]):
    """An OpenSpiel game from the view of one player; simultaneous moves are converted to turns."""

    def __init__(self, game: str, player: int, others: SeatPolicy) -> None:
        pyspiel: Any = importlib.import_module("pyspiel")
        loaded = pyspiel.load_game(game)
        if loaded.get_type().dynamics == pyspiel.GameType.Dynamics.SIMULTANEOUS:
            loaded = pyspiel.convert_to_turn_based(loaded)
        self.game, self.player, self._others = loaded, player, others
        if not 0 <= player < loaded.num_players():
            raise ValueError(f"there is no player {player}; the game has {loaded.num_players()}, from 0")
        kind = loaded.get_type()
        self._has_tensor = bool(kind.provides_observation_tensor)
        shape = tuple(loaded.observation_tensor_shape()) if self._has_tensor else (1,)
        self.observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.action_space = spaces.Discrete(int(loaded.num_distinct_actions()))
        self._state: Any = None
        self._paid = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a game, and play until the player's first move."""
        super().reset(seed=seed)
        self._state, self._paid = self.game.new_initial_state(), 0.0
        self._play_on()
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move, and play until the player's next move or the end.

        Raises:
            ValueError: the move is not legal.
        """
        if int(action) not in self._state.legal_actions(self.player):
            raise ValueError(f"the move {int(action)} is not legal now: {self._legal()}")
        self._state.apply_action(int(action))
        self._play_on()
        total = float(self._state.player_return(self.player))
        reward, self._paid = total - self._paid, total
        return self._observation(), reward, bool(self._state.is_terminal()), False, self._info()

    def _play_on(self) -> None:
        state, rng = self._state, self.np_random
        while not state.is_terminal() and state.current_player() != self.player:
            if state.is_chance_node():
                moves, chances = zip(*state.chance_outcomes(), strict=True)
                state.apply_action(int(moves[rng.choice(len(moves), p=np.asarray(chances) / sum(chances))]))
            else:
                state.apply_action(self._others(state, rng))

    def _observation(self) -> NDArray[np.float32]:
        if not self._has_tensor:
            return np.zeros(1, np.float32)
        tensor = np.asarray(self._state.observation_tensor(self.player), np.float32)
        return tensor.reshape(self.observation_space.shape)

    def _legal(self) -> str:
        state = self._state
        moves = state.legal_actions(self.player) if not state.is_terminal() else []
        return ", ".join(f"{move} = {state.action_to_string(self.player, move)}" for move in moves)

    def _info(self) -> dict[str, Any]:
        state, kind = self._state, self.game.get_type()
        mask = np.zeros(int(self.game.num_distinct_actions()), np.int8)
        if not state.is_terminal():
            mask[state.legal_actions(self.player)] = 1
        if (
            not str(kind.information).endswith(".PERFECT_INFORMATION") and kind.provides_information_state_string
        ):  # the player's information, including its own past
            seen = state.information_state_string(self.player)
        else:
            seen = state.observation_string(self.player)
        ends = f"\nlegal moves: {self._legal()}" if mask.any() else ""
        return {"action_mask": mask, "text": f"{seen}{ends}"}
