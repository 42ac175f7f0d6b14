"""PettingZoo's games: one agent learns, the others are played by policies."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from pettingzoo.classic import connect_four_v3, rps_v2, tictactoe_v3

import ors_gym  # noqa: F401  (it registers ors_gym/ORS-v0)
from ors_gym.types import text_of
from ors_gym_server import create_app
from ors_gym_server.adapters.action_names import names_in
from ors_gym_server.adapters.pettingzoo import OneAgent, from_pettingzoo, random_action
from tests.support.exactness import are_identical
from tests.support.ors_servers import serve_app


def first_legal(turn):
    return int(np.flatnonzero(turn.action_mask)[0])


def test_an_episode_is_the_game_between_the_turns_of_its_agent():
    env, game = OneAgent(tictactoe_v3.env(), "player_2", first_legal), tictactoe_v3.env()
    observation, info = env.reset(seed=1)
    game.reset(seed=1)
    game.step(0)  # what the first player did before
    assert are_identical(observation, game.observe("player_2"))
    assert info["action_mask"].tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 1]
    for mine, theirs in ((3, 1), (4, 2)):
        observation, reward, terminated, _, _ = env.step(mine)
        game.step(mine)
        game.step(theirs)
        assert are_identical(observation, game.observe("player_2"))
    assert (reward, terminated) == (-1.0, True)  # 0, 1 and 2 are a line


def test_agents_that_move_at_once_are_played_too():
    env = OneAgent(rps_v2.parallel_env(num_actions=3, max_cycles=3), 0, lambda turn: 0)  # always rock
    env.reset(seed=1)
    steps = [env.step(action) for action in (1, 2, 0)]
    assert [step[1] for step in steps] == [1.0, -1.0, 0.0]  # paper, scissors, rock
    assert [step[2] or step[3] for step in steps] == [False, False, True]


def test_a_seed_decides_what_the_others_do():
    def playout(seed):
        env = OneAgent(connect_four_v3.env(), 1, random_action)
        seen = [env.reset(seed=seed)]
        seen += [env.step(column) for column in (0, 1, 2)]
        return seen

    assert are_identical(playout(3), playout(3))
    assert not are_identical(playout(3), playout(4))


def test_agents_without_a_policy_and_unknown_ones_are_named():
    with pytest.raises(ValueError, match="missing policy for player_2"):
        OneAgent(tictactoe_v3.env(), 0, {})
    with pytest.raises(ValueError, match="no agent 'X'; there is player_1, player_2"):
        OneAgent(tictactoe_v3.env(), "X", random_action)
    with pytest.raises(ValueError, match="no agent 2"):
        from_pettingzoo(tictactoe_v3.env, agent=2)


def test_a_model_reads_rules_and_a_board():
    made = from_pettingzoo(tictactoe_v3.env, others=first_legal)
    assert made.__name__ == "tictactoe"
    episode = made(made.get_task("train", 0))
    episode.setup()
    prompt = text_of(episode.get_prompt())
    assert "You play tictactoe as player_1." in prompt
    assert "The cells are indexed as follows:\n\n0 | 3 | 6\n" in prompt
    assert not any(developers in prompt for developers in ("```", "<a href", "action_mask", "Version History"))
    assert "X is you, O the other:\n. . .\n. . .\n. . ." in prompt
    told = text_of(episode.call_tool("step", {"action": 3}).blocks)  # the cell right of 0, as the rules number them
    assert "O X .\n. . .\n. . ." in told
    episode.teardown()


def test_actions_are_called_as_the_documentation_calls_them():
    table = "\n\n| ID | Action |\n|:--:|---|\n| 0 | Call |\n| 1 | Raise it |\n\n"
    assert names_in(table, gym.spaces.Discrete(2)) == ["call", "raise it"]
    assert names_in(table, gym.spaces.Discrete(3)) == []


def test_a_learner_gets_the_agents_own_spaces_over_the_wire():
    with serve_app(create_app([from_pettingzoo(connect_four_v3.env, agent="player_1")])) as running:
        env = gym.make("ors_gym/ORS-v0", url=running.url, spaces="native")
        local = OneAgent(connect_four_v3.env(), "player_1", random_action)
        assert env.observation_space == local.observation_space
        assert are_identical(env.reset(seed=2), local.reset(seed=2))
        assert are_identical([env.step(column) for column in (3, 3, 2)], [local.step(column) for column in (3, 3, 2)])
        env.close()
