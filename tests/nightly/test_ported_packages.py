"""What a model reads of environments of other packages, as it was read and approved; each where it is installed.

The texts are in ``approved/``; ``ORS_APPROVE=1`` writes them. Some packages pin others (NLE pins Gymnasium, TextWorld
pins TatSu), so no environment has all of them.
"""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path

import gymnasium
import pytest

from ors_gym.spaces import TextSpace
from ors_gym_server import as_ors_environment, from_pettingzoo, from_questions
from ors_gym_server.adapters.old_gym import OldGymEnv
from tests.support.reading import approved, read_by_a_model

APPROVED = Path(__file__).parent / "approved"
TEN = {"train": range(10)}


def gym(env_id, **options):
    return lambda folder: as_ors_environment(env_id, splits=TEN, **options)


def crafter(folder):
    import crafter

    return as_ors_environment(lambda: OldGymEnv(crafter.Env), name="Crafter", info_keys=["inventory"], splits=TEN)


def sudoku(folder):
    import gem

    make = partial(gem.make, "game:Sudoku-v0-easy")
    return as_ors_environment(lambda: OldGymEnv(make), name="Sudoku", info_keys=["suffix"], splits=TEN)


class Lake(gymnasium.Env):
    observation_space = action_space = TextSpace()

    def reset(self, *, seed=None, options=None):
        import textarena

        super().reset(seed=seed)
        self.game = textarena.make("FrozenLake-v0")
        self.game.reset(num_players=1, seed=seed)
        return self.game.get_observation()[1], {}

    def step(self, action):
        is_over, info = self.game.step(action=action)
        if not is_over:
            return self.game.get_observation()[1], 0.0, False, False, info
        rewards, _ = self.game.close()
        return "The game is over.", float(rewards[0]), True, False, info


class Quest(gymnasium.Env):
    observation_space = action_space = TextSpace()

    def reset(self, *, seed=None, options=None):
        import textworld

        super().reset(seed=seed)
        told = textworld.EnvInfos(objective=True, description=True, admissible_commands=True)
        self.game = textworld.start(options["file"], told)
        self.state = self.game.reset()
        return f"{self.state.objective}\n\n{self.state.description}", self.info()

    def step(self, action):
        before = self.state.score
        self.state, score, done = self.game.step(action)
        return self.state.feedback.split("\n>")[0], score - before, done, False, self.info()

    def info(self):
        return {"commands": self.state.admissible_commands}

    def close(self):
        if hasattr(self, "game"):
            self.game.close()


def game_file(folder, seed):
    """A game that TextWorld makes, in some seconds: no package ships one."""
    import textworld

    options = textworld.GameOptions()
    options.nb_rooms, options.nb_objects, options.quest_length, options.seeds = 3, 5, 3, seed
    options.path = str(folder / f"game{seed}.z8")
    return textworld.generator.compile_game(textworld.generator.make_game(options), options)


def quest(folder):
    splits = {"train": [{"options": {"file": game_file(folder, seed)}} for seed in range(4)]}
    commands = ["look", "inventory", "go south"]
    return as_ors_environment(Quest, name="Quest", info_keys=["commands"], action_examples=commands, splits=splits)


def frotz(folder):
    import jericho

    make = partial(jericho.FrotzEnv, game_file(folder, 3))
    return as_ors_environment(
        lambda: OldGymEnv(make), name="Frotz", action_examples=["look", "inventory"], splits={"train": range(10)}
    )


def leg_counting(folder):
    import reasoning_gym

    entries = reasoning_gym.create_dataset("leg_counting", seed=1, size=10)
    return from_questions("leg_counting", {"train": entries}, score=entries.score_answer)


def kuhn_poker(folder):
    from ors_gym_server.adapters.open_spiel import from_open_spiel

    return from_open_spiel("kuhn_poker", splits=TEN)


def pettingzoo(module):
    return lambda folder: from_pettingzoo(importlib.import_module(f"pettingzoo.{module}").parallel_env, splits=TEN)


PACKAGES = {
    "nethack": ("nle==1.3.0", gym("nle:NetHackScore-v0")),
    "minihack-room": ("minihack==1.0.2", gym("minihack:MiniHack-Room-Random-5x5-v0")),
    "highway": ("highway-env==1.12.1", gym("highway_env:highway-v0")),
    "pong": ("ale-py==0.12.1", gym("ale_py:ALE/Pong-v5", instructions="Move the right paddle.")),
    "point-maze": ("gymnasium-robotics==1.4.2", gym("gymnasium_robotics:PointMaze_UMaze-v3")),
    "crafter": ("crafter==1.8.3", crafter),
    "sudoku": ("gem-llm==0.1.0", sudoku),
    "lake": (
        "textarena==0.7.4",
        lambda folder: as_ors_environment(Lake, name="Lake", action_examples=["[right]", "[down]"], splits=TEN),
    ),
    "quest": ("textworld==1.7.0", quest),
    "frotz": ("jericho==3.3.1", frotz),
    "leg-counting": ("reasoning-gym==0.1.25", leg_counting),
    "kuhn-poker": ("open-spiel==2.0.2", kuhn_poker),
    "pistonball": ("pymunk==7.3.1", pettingzoo("butterfly.pistonball_v6")),
    "cooperative-pong": ("pettingzoo==1.27.0", pettingzoo("butterfly.cooperative_pong_v6")),
    "knights-archers-zombies": (
        "pettingzoo==1.27.0",
        pettingzoo("butterfly.knights_archers_zombies_v11"),
    ),
    "multiwalker": ("Box2D==2.3.10", pettingzoo("sisl.multiwalker_v9")),
}


@pytest.mark.filterwarnings("ignore")  # of the packages
@pytest.mark.parametrize(
    ("name", "make"),
    [
        pytest.param(name, make, marks=pytest.mark.needs(requirement), id=name)
        for name, (requirement, make) in PACKAGES.items()
    ],
)
def test_a_model_reads_what_was_approved(name, make, tmp_path, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.chdir(tmp_path)
    text = read_by_a_model(make(tmp_path))
    assert text == approved(APPROVED / f"{name}.txt", text)
