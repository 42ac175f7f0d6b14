"""Environments of gym's interface, from before Gymnasium."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces

from ors_gym.types import text_of
from ors_gym_server import as_ors_environment
from ors_gym_server.adapters.old_gym import OldGymEnv, as_space

DiscreteSpace = namedtuple("DiscreteSpace", "n")
BoxSpace = namedtuple("BoxSpace", "low high shape dtype")


class Counter:
    """Four values, an observation alone, and a seed in the constructor, as crafter has it."""

    observation_space = BoxSpace(0, 99, (np.int64(1),), np.uint8)
    action_space = DiscreteSpace(2)
    metadata = {"render.modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, size=3, seed=None):
        self.size, self.first = size, np.random.default_rng(seed).integers(50)

    def reset(self):
        self.count = 0
        return np.array([self.first], np.uint8)

    def step(self, action):
        self.count += 1
        info = {"TimeLimit.truncated": True} if self.count == self.size and action == 0 else {}
        return np.array([self.first + self.count], np.uint8), 1, self.count == self.size, info

    def render(self, mode="human"):
        return mode


class Seeded(Counter):
    """The same with a method ``seed``, as most had it."""

    def __init__(self):
        super().__init__()

    def seed(self, seed=None):
        self.first = np.random.default_rng(seed).integers(50)


class Newer(Counter):
    """The last interface of gym: an info, five values, a seed of reset."""

    def __init__(self):
        super().__init__()

    def reset(self, *, seed=None, options=None):
        self.first = np.random.default_rng(seed).integers(50)
        return super().reset(), {"options": options}

    def step(self, action):
        observation, reward, done, info = super().step(action)
        return observation, reward, done, False, info


@pytest.mark.parametrize("make", [Counter, Seeded, Newer])
def test_the_seed_decides_the_episode_wherever_it_is_taken(make):
    env = OldGymEnv(make)
    firsts = [int(env.reset(seed=seed)[0][0]) for seed in (1, 1, 2)]
    assert firsts == [int(np.random.default_rng(seed).integers(50)) for seed in (1, 1, 2)]
    assert env.observation_space.contains(env.reset()[0])


@pytest.mark.parametrize(("action", "end"), [(1, (True, False)), (0, (False, True))])
def test_an_end_by_the_time_limit_is_a_truncation(action, end):
    env = OldGymEnv(Counter, size=2)
    env.reset()
    assert env.step(action)[2:4] == (False, False)
    assert env.step(action)[2:4] == end


def test_it_is_drawn_and_its_other_attributes_are_there():
    env = OldGymEnv(Counter, size=5)
    assert (env.render(), env.metadata["render_modes"], env.size) == ("rgb_array", ["rgb_array"], 5)
    env.close()


def test_it_is_served():
    made = as_ors_environment(lambda: OldGymEnv(Counter), name="Counter", action_names=["cut", "stop"])
    episode = made(made.get_task("train", 4))
    episode.setup()
    first = int(np.random.default_rng(4).integers(50))
    assert str(first) in text_of(episode.get_prompt())
    steps = [episode.call_tool("step", {"action": "cut"}) for _ in range(3)]
    assert [step.finished for step in steps] == [False, False, True]
    assert steps[-1].cut_short
    episode.teardown()


def test_spaces_are_read_by_their_attributes():
    inner = SimpleNamespace(spaces=(DiscreteSpace(4), SimpleNamespace(n=3, shape=(3,))))
    given = SimpleNamespace(spaces={"b": SimpleNamespace(nvec=[2, 3]), "a": inner})
    expected = spaces.Dict(
        [
            ("b", spaces.MultiDiscrete([2, 3])),
            ("a", spaces.Tuple([spaces.Discrete(4), spaces.MultiBinary(3)])),
        ]
    )
    assert as_space(given) == expected
    with pytest.raises(TypeError, match=r"the space builtins.str is not one of"):
        as_space("space")
