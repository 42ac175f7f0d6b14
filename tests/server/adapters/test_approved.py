"""What a model reads of each environment, as it was read and approved: tools, prompt, and the first observations.

The texts are in ``approved/``. Where one changes on purpose, read the new text as a model would, and then write it with
``ORS_APPROVE=1 pytest tests/server/adapters/test_approved.py``.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from ors_gym.spaces import ToolCallSpace
from ors_gym.types import TextBlock
from ors_gym_server import as_ors_environment
from tests.support.port_environments import AdventureEnv
from tests.support.ported import TAXI

APPROVED = Path(__file__).parent / "approved"
NUM_STEPS = 2
"""With what is seen first, three observations."""


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
}
"""Those that the tests have."""
COMPILED = {"lunar-lander": "Box2D", "bipedal-walker": "Box2D", "car-racing": "Box2D", "half-cheetah": "mujoco"}


def read_by_a_model(source, options) -> str:
    """All that a model gets, in order; pictures by their format."""
    environment = as_ors_environment(source, splits={"train": range(10)}, **options)
    tools = environment.list_tools()
    parts = [
        f"{tool.name}: {tool.description}\n{json.dumps(tool.input_schema, indent=1, ensure_ascii=False)}"
        for tool in tools
    ]
    episode = environment(environment.get_task("train", 3))
    episode.setup()
    try:
        shown = [episode.get_prompt()]
        space = ToolCallSpace(tools, seed=5)
        for _ in range(NUM_STEPS):
            call = space.sample()
            output = episode.call_tool(call.name, call.input)
            parts_of_call = json.dumps(dict(call.input), ensure_ascii=False)
            result = f"reward {output.reward:.6g}" if output.ok else output.error
            shown.append([TextBlock(f"> {parts_of_call}\n{result}"), *output.blocks])
    finally:
        episode.teardown()
    for blocks in shown:
        parts.append("\n".join(each.text if isinstance(each, TextBlock) else f"({each.mime_type})" for each in blocks))
    return re.sub(r"(?m)[ \t]+$", "", "\n----------\n".join(parts)) + "\n"


@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning")
@pytest.mark.skipif(
    tuple(map(int, gymnasium.__version__.split(".")[:2])) < (1, 4), reason="read with the texts of Gymnasium 1.4"
)
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_model_reads_what_was_approved(name, tmp_path, monkeypatch):
    if name in COMPILED:
        pytest.importorskip(COMPILED[name])
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.chdir(tmp_path)
    text = read_by_a_model(*ENVIRONMENTS[name])
    file = APPROVED / f"{name}.txt"
    if os.environ.get("ORS_APPROVE"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")
