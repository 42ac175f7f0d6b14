"""OpenSpiel's games, where the package is installed: it is large, so nothing installs it."""

from __future__ import annotations

import numpy as np
import pytest

from ors_gym.types import text_of
from ors_gym_server.adapters.open_spiel import OneSeat, from_open_spiel, random_move

pytestmark = pytest.mark.needs("open-spiel==2.0.2")


def playout(game, seed, player=0):
    env, rng = OneSeat(game, player, random_move), np.random.default_rng(0)
    observation, info = env.reset(seed=seed)
    seen = [info["text"]]
    over, rewards = False, []
    while not over:
        assert env.observation_space.contains(observation)
        observation, reward, over, _, info = env.step(int(rng.choice(np.flatnonzero(info["action_mask"]))))
        seen.append(info["text"])
        rewards.append(reward)
    return seen, rewards


@pytest.mark.parametrize("game", ["kuhn_poker", "tic_tac_toe", "2048", "leduc_poker", "matrix_rps"])
def test_a_seed_decides_chance_and_the_others(game):
    assert playout(game, 3) == playout(game, 3)
    assert len({str(playout(game, seed)) for seed in range(8)}) > 1


def test_rewards_sum_to_the_return_of_the_player():
    assert sum(playout("tic_tac_toe", 1, player=1)[1]) in (-1.0, 0.0, 1.0)


def test_a_player_reads_what_it_may_see_and_its_legal_moves():
    made = from_open_spiel("kuhn_poker")
    episode = made(made.get_task("train", 1))
    episode.setup()
    prompt = text_of(episode.get_prompt())
    assert "You play Kuhn Poker as player 0 of 2." in prompt
    assert "legal moves: 0 = Pass, 1 = Bet" in prompt
    episode.teardown()
    with pytest.raises(ValueError, match="there is no player 2"):
        from_open_spiel("kuhn_poker", player=2)
