"""Environments whose spaces travel: one with every space of Gymnasium, and one that breaks."""

from __future__ import annotations

import threading
from collections import OrderedDict

import gymnasium
import numpy as np
from gymnasium import spaces


class Zoo(gymnasium.Env):
    """Draws observations of every space; ends at random, by its own word or by its own limit."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = spaces.Dict(
            OrderedDict(
                box=spaces.Box(np.array([-np.inf, 0.0]), np.array([1.0, np.inf]), dtype=np.float64),
                half=spaces.Box(-1, 1, (), np.float16),
                picture=spaces.Box(0, 255, (20, 20, 4), np.uint8),
                discrete=spaces.Discrete(3, start=-1),
                multi_discrete=spaces.MultiDiscrete([3, 4], start=[1, -2]),
                multi_binary=spaces.MultiBinary([2, 2]),
                text=spaces.Text(5, charset='a"\né😀'),
                tuple=spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (1,))]),
                sequence=spaces.Sequence(spaces.Box(0, 1, (2,))),
                stack=spaces.Sequence(spaces.Discrete(3), stack=True),
                graph=spaces.Graph(spaces.Box(0, 1, (2,)), spaces.Discrete(3)),
                one_of=spaces.OneOf([spaces.Discrete(2), spaces.Text(3)]),
            )
        )
        self.action_space = spaces.Dict(
            push=spaces.Box(-1, 1, (2,)), jump=spaces.Discrete(2), keys=spaces.MultiBinary(3), word=spaces.Text(3)
        )

    def _info(self):
        return {
            "lives": int(self.np_random.integers(3)),
            "speed": np.float32(self.np_random.random()),
            "nothing": np.nan,
            "place": np.array([1.5, -np.inf]),
            "said": "né",
            "more": {"depth": 2, "flag": True},
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample(), self._info() | {"options": len(options or {})}

    def step(self, action):
        assert self.action_space.contains(action), action
        terminated, truncated = bool(self.np_random.random() < 0.15), bool(self.np_random.random() < 0.15)
        reward = np.float64(self.np_random.standard_normal()) + float(action["push"][0])
        return self.observation_space.sample(), reward, terminated, truncated, self._info()

    def render(self):
        return np.full((2, 2, 3), 7, np.uint8)


class Fragile(gymnasium.Env):
    """Counts to three; raises for the action 1."""

    closed = threading.Semaphore(0)
    """Released by each close."""

    observation_space = spaces.Box(0, 9, (1,), np.int64)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.int64), {"draw": int(self.np_random.integers(2**31))}

    def step(self, action):
        if action == 1:
            raise RuntimeError("it broke")
        self.count += 1
        return np.full(1, self.count), 1.0, self.count == 3, False, {}

    def close(self):
        self.closed.release()
