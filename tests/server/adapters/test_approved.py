"""What a model reads of each environment, as it was read and approved: tools, prompt, and the first observations.

The texts are in ``approved/``. Where one changes on purpose, read the new text as a model would, and then write it with
``ORS_APPROVE=1 pytest tests/server/adapters/test_approved.py``. Those of other packages are in ``tests/nightly``.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo.classic import connect_four_v3, tictactoe_v3

from ors_gym_server import as_ors_environment, from_pettingzoo
from tests.support.port_environments import AdventureEnv
from tests.support.ported import TAXI
from tests.support.reading import approved, read_by_a_model

APPROVED = Path(__file__).parent / "approved"


class Dungeon(gymnasium.Env):
    """Walk in a dungeon.

    The reward is :math:`1` for the stairs. See the `size` argument for larger dungeons.

    Args:
        size: Of the dungeon.

    >>> Dungeon(5)
    <Dungeon>
    """

    ACTIONS = ("NORTH", "EAST", "SOUTH", "WEST")
    action_space = spaces.Discrete(4)
    observation_space = spaces.Dict(
        {
            "chars": spaces.Box(0, 255, (4, 40), np.uint8),
            "action_mask": spaces.MultiBinary(4),
            "seen": spaces.Box(0, 255, (3, 80, 80), np.uint8),
        }
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(3))
        return self.look(), {}

    def step(self, action):
        self.place = min(self.place + 1, 4)
        return self.look(), float(self.place == 4), self.place == 4, False, {}

    def look(self):
        rows = ["You see a wall.", "-" * 7, "|" + "." * self.place + "@" + "." * (4 - self.place) + "|", "-" * 7]
        chars = np.array([list(row.ljust(40, "\0").encode()) for row in rows], np.uint8)
        mask = np.array([0, self.place < 4, 0, self.place > 0], np.int8)
        return {"chars": chars, "action_mask": mask, "seen": np.zeros((3, 80, 80), np.uint8)}


ENVIRONMENTS = {
    "frozen-lake": ("FrozenLake-v1", {}),
    "frozen-lake-certain": ("FrozenLake-v1", {"is_slippery": False}),
    "cliff-walking": ("CliffWalking-v1", {}),
    "taxi": (TAXI, {}),
    "blackjack": ("Blackjack-v1", {}),
    "cart-pole": ("CartPole-v1", {}),
    "mountain-car": ("MountainCar-v0", {}),
    "acrobot": ("Acrobot-v1", {}),
    "pendulum": ("Pendulum-v1", {}),
    "lunar-lander": ("LunarLander-v3", {}),
    "bipedal-walker": ("BipedalWalker-v3", {}),
    "car-racing": ("CarRacing-v3", {}),
    "minigrid-door-key": ("minigrid:MiniGrid-DoorKey-5x5-v0", {}),
    "babyai-go-to-red-ball": ("minigrid:BabyAI-GoToRedBall-v0", {}),
    "half-cheetah": ("HalfCheetah-v5", {}),
    "adventure": (AdventureEnv, {"action_names": ["command"]}),
    "dungeon": (Dungeon, {}),
    "tictactoe": (tictactoe_v3.env, {}),
    "connect-four": (connect_four_v3.env, {}),
}
"""Those that the tests have."""
COMPILED = {"lunar-lander": "box2d", "bipedal-walker": "box2d", "car-racing": "box2d", "half-cheetah": "mujoco"}


@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning")
@pytest.mark.needs("gymnasium>=1.4")  # has these texts
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.needs(COMPILED[name])] if name in COMPILED else [])
        for name in ENVIRONMENTS
    ],
)
def test_a_model_reads_what_was_approved(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.chdir(tmp_path)
    source, options = ENVIRONMENTS[name]
    port = from_pettingzoo if inspect.isfunction(source) else as_ors_environment
    text = read_by_a_model(port(source, splits={"train": range(10)}, **options))
    assert text == approved(APPROVED / f"{name}.txt", text)
