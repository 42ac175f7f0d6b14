"""Train Stable-Baselines3 on an environment behind an ORS server, and on the same environment locally.

::

    pip install stable-baselines3
    ors-gym serve gym:CartPole-v1 --port 8080
    python examples/train_sb3.py http://127.0.0.1:8080 --compare CartPole-v1

Prints the mean return of each tenth of the training, the steps per second, and with ``--compare`` whether both
trainings ended with the same weights. They do: every observation, reward and end is the environment's own.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import DQN, PPO  # pyright: ignore[reportMissingImports]  # no test needs it
from stable_baselines3.common.monitor import Monitor  # pyright: ignore[reportMissingImports]


def train(env: gym.Env[Any, Any], algorithm: str, steps: int, seed: int) -> tuple[float, float, list[float]]:
    """Steps per second, a checksum of the final weights, and the return of each episode."""
    monitored = Monitor(env)
    torch.manual_seed(seed)
    if algorithm == "ppo":
        model: Any = PPO("MlpPolicy", monitored, seed=seed, device="cpu")
    else:
        model = DQN("MlpPolicy", monitored, seed=seed, device="cpu", learning_starts=1000, learning_rate=2.3e-3,
                    train_freq=256, gradient_steps=128, target_update_interval=10, exploration_fraction=0.16,
                    exploration_final_eps=0.04, policy_kwargs={"net_arch": [256, 256]})  # fmt: skip
    started = time.perf_counter()
    model.learn(steps)
    seconds = time.perf_counter() - started
    weights = sum(float(value.double().sum()) for value in model.policy.state_dict().values())
    returns = monitored.get_episode_rewards()
    monitored.close()
    return model.num_timesteps / seconds, weights, returns


def report(name: str, speed: float, returns: list[float]) -> None:
    """One line: steps per second, and the mean return of each tenth of the episodes."""
    curve = " ".join(f"{np.mean(part):.0f}" for part in np.array_split(returns, 10) if len(part))
    print(f"{name}: {len(returns)} episodes, {speed:.0f} steps/s, returns {curve}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="an ORS server that serves an environment from Gymnasium")
    parser.add_argument("--env", help="the environment (default: the only one)")
    parser.add_argument("--compare", metavar="ID", help="train on this Gymnasium environment too, in this process")
    parser.add_argument("--algorithm", choices=["ppo", "dqn"], default="ppo")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    env = gym.make("ors_gym:ors_gym/ORS-v0", url=arguments.url, env_name=arguments.env, spaces="native")
    speed, weights, returns = train(env, arguments.algorithm, arguments.steps, arguments.seed)
    report("over ORS", speed, returns)
    if arguments.compare:
        speed, own, local = train(gym.make(arguments.compare), arguments.algorithm, arguments.steps, arguments.seed)
        report("in this process", speed, local)
        print("the same episodes and weights" if (own, local) == (weights, returns) else "the trainings differ")


if __name__ == "__main__":
    main()
