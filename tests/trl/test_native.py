"""Gymnasium's NumpyToTorch over an environment that keeps its spaces. It stands here because it needs torch."""

from __future__ import annotations

from importlib.util import find_spec

import gymnasium as gym
import pytest
import torch

import ors_gym  # noqa: F401  (it registers ors_gym/ORS-v0)
from ors_gym_server import as_ors_environment, create_app
from tests.support.ors_servers import serve_app


@pytest.mark.skipif(find_spec("gymnasium.wrappers.array_conversion") is None, reason="before 1.2 it needs JAX")
def test_torch_gets_tensors():
    from gymnasium.wrappers import NumpyToTorch

    with serve_app(create_app([as_ors_environment("CartPole-v1")])) as running:
        env = NumpyToTorch(gym.make("ors_gym/ORS-v0", url=running.url, spaces="native"))
        observation, _ = env.reset(seed=1)
        assert observation.dtype == torch.float32
        observation, reward, terminated, truncated, _ = env.step(torch.tensor(1))
        assert (observation.shape, reward, terminated, truncated) == ((4,), 1.0, False, False)
        env.close()
