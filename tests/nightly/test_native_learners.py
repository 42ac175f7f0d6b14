"""Learners that are no language models, over an ORS server: they learn the same as without one."""

from __future__ import annotations

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

import ors_gym  # noqa: F401  (it registers ors_gym/ORS-v0)
from ors_gym_server import as_ors_environment, create_app
from tests.support.ors_servers import serve_app
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def url():
    with serve_app(create_app([as_ors_environment("CartPole-v1")])) as running:
        yield running.url


def learn(envs, updates=6, steps=32):
    """A loop as CleanRL writes it: advantages over a vector that resets itself, and a clipped step; the weights."""
    torch.manual_seed(1)
    actor, critic = (nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, size)) for size in (2, 1))
    parameters = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, 1e-2)
    observations, _ = envs.reset(seed=1)
    for _ in range(updates):
        rows = []
        for _ in range(steps):
            seen = torch.as_tensor(observations)
            actions = torch.distributions.Categorical(logits=actor(seen).detach()).sample()
            observations, rewards, terminations, truncations, _ = envs.step(actions.numpy())
            ended = torch.as_tensor(np.logical_or(terminations, truncations))
            rows.append((seen, actions, torch.as_tensor(rewards, dtype=torch.float32), ended))
        worth = critic(torch.as_tensor(observations)).flatten().detach()
        loss = torch.zeros(())
        for seen, actions, rewards, ended in reversed(rows):
            worth = rewards + 0.99 * worth * ~ended
            advantage = worth - critic(seen).flatten()
            chosen = torch.distributions.Categorical(logits=actor(seen)).log_prob(actions)
            loss = loss + (advantage**2 - advantage.detach() * chosen).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
    envs.close()
    return torch.cat([each.detach().flatten() for each in parameters])


def test_a_loop_of_ones_own_learns_the_same_weights_over_a_vector(url):
    remote = gym.make_vec("ors_gym/ORS-v0", num_envs=8, url=url, spaces="native")
    local = gym.make_vec("CartPole-v1", num_envs=8, vectorization_mode="sync")
    assert torch.equal(learn(remote), learn(local))


@pytest.mark.needs("stable-baselines3==2.9.2")
def test_stable_baselines3_learns_the_same_weights(url):
    command = [sys.executable, "examples/train_sb3.py", url, "--compare", "CartPole-v1", "--steps", "4096"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "the same episodes and weights"
