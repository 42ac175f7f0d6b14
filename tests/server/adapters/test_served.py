"""Ported environments on a server: what goes in at one end comes out at the other."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import ors_gym  # noqa: F401  (it registers ors_gym/ORS-v0)
from ors_gym import EpisodeRunner, ORSClient, RandomPolicy, RolloutLimits, StopReason
from ors_gym.rollouts.tasks import load_tasks
from ors_gym.types import text_of
from ors_gym_server import as_openreward, as_ors_environment, create_app
from ors_gym_server.adapters.gymnasium_episode import Screen
from tests.support.ors_servers import serve, serve_app
from tests.support.port_environments import AdventureEnv
from tests.support.ported import TAXI, call_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning"),  # Box2D, when imported
]

Adventure = as_ors_environment(AdventureEnv, action_names=["command"], splits={"train": range(8)})
ROUND_TRIPS = {
    "FrozenLake-v1": {},
    TAXI: {},
    "CartPole-v1": {"render_mode": "rgb_array"},
    "Pendulum-v1": {},
    "Blackjack-v1": {"sab": True},
}


@pytest.fixture(scope="module")
def ported():
    return {env_id: as_ors_environment(env_id, **options) for env_id, options in ROUND_TRIPS.items()}


@pytest.fixture(scope="module")
def url(ported):
    with serve_app(create_app([*ported.values(), Adventure])) as running:
        yield running.url


def bare_episode(environment, seed, num_steps, actions_seed=0):
    """Actions of an episode of the environment itself, and what it says to them."""
    env = environment.recipe.make()
    screen = Screen(environment.recipe, env)
    env.action_space.seed(actions_seed)
    observation, info = env.reset(seed=seed)
    first, steps = text_of(screen.blocks(observation, info)), []
    for _ in range(num_steps):
        action = env.action_space.sample()
        observation, reward, terminated, truncated, info = env.step(action)
        text = text_of(screen.blocks(observation, info))
        steps.append((action, text, float(reward), terminated, truncated))
        if terminated or truncated:
            break
    env.close()
    return first, steps


@pytest.mark.parametrize("env_id", ROUND_TRIPS)
def test_gym_make_on_the_served_port_plays_as_the_environment_itself(ported, url, env_id):
    environment = ported[env_id]
    env = gymnasium.make("ors_gym/ORS-v0", url=url, env_name=environment.__name__.lower(), split="train")
    try:
        for seed in range(3):
            first, steps = bare_episode(environment, seed, 60)
            prompt, _ = env.reset(options={"task_index": seed})
            assert prompt.endswith(first)
            for action, text, reward, terminated, truncated in steps:
                call = call_of(environment.tools, action)
                step = env.step({"name": call.name, "input": dict(call.input)})
                assert step[:2] == (text, reward)
                assert step[2:4] == (terminated, truncated)
    finally:
        env.close()


def test_a_vector_of_served_ports_plays_as_the_environments_themselves(ported, url):
    environment = ported["FrozenLake-v1"]
    episodes = [bare_episode(environment, seed, 5, actions_seed=seed) for seed in range(4)]
    envs = gymnasium.make_vec("ors_gym/ORS-v0", num_envs=4, url=url, env_name="frozenlake", split="train")
    try:
        prompts, _ = envs.reset(options={"task_index": [0, 1, 2, 3]})
        assert all(prompt.endswith(first) for prompt, (first, _) in zip(prompts, episodes, strict=True))
        alive = np.ones(4, bool)
        for number in range(5):
            actions, expected = [], []
            for member, (_, steps) in enumerate(episodes):
                alive[member] &= number < len(steps)
                step = steps[min(number, len(steps) - 1)]
                call = call_of(environment.tools, step[0])
                actions.append({"name": call.name, "input": dict(call.input)})
                expected.append(step[1:])
            texts, rewards, terminations, truncations, _ = envs.step(actions)
            for member in np.flatnonzero(alive):
                text, reward, terminated, truncated = expected[member]
                assert (texts[member], rewards[member]) == (text, reward)
                assert (terminations[member], truncations[member]) == (terminated, truncated)
    finally:
        envs.close()


def test_a_time_limit_of_the_environment_cuts_the_episode_short_everywhere(run):
    lake = as_ors_environment("FrozenLake-v1", name="Lake", max_episode_steps=1)

    async def conversation(url):
        async with ORSClient(url) as client:
            tasks = (await load_tasks(client, "lake", "train"))[:2]
            runner = EpisodeRunner(client, RandomPolicy(0), limits=RolloutLimits(5))
            return [await runner.run_episode(task) for task in tasks]

    with serve_app(create_app([lake])) as running:
        episodes = run(conversation(running.url))
        env = gymnasium.make("ors_gym/ORS-v0", url=running.url, env_name="lake", split="train")
        try:
            env.reset()
            call = call_of(lake.tools, 0)
            *_, terminated, truncated, info = env.step({"name": call.name, "input": dict(call.input)})
        finally:
            env.close()
    assert [episode.stop_reason for episode in episodes] == [StopReason.ENVIRONMENT_LIMIT] * 2
    assert [(episode.terminated, episode.truncated) for episode in episodes] == [(False, True)] * 2
    assert (terminated, truncated, info["stop_reason"]) == (False, True, StopReason.ENVIRONMENT_LIMIT)


def test_the_random_policy_plays_every_port_to_an_end(ported, url, run):
    async def conversation():
        async with ORSClient(url) as client:
            for name in await client.list_environments():
                runner = EpisodeRunner(client, RandomPolicy(0), limits=RolloutLimits(8))
                (task,) = await load_tasks(client, name, "train", limit=1)
                episode = await runner.run_episode(task)
                assert episode.stop_reason in (StopReason.FINISHED, StopReason.MAX_TURNS), episode.failure
                assert all(transition.output.ok for transition in episode.transitions)

    run(conversation())


def test_a_port_plays_the_same_on_the_reference_server(ported, run):
    environment = ported[TAXI]
    first, steps = bare_episode(environment, 2, 20)

    async def conversation(url):
        async with ORSClient(url) as client:
            async with client.session("taxi", split="train", index=2) as session:
                assert text_of(await session.get_prompt()).endswith(first)
                for action, text, reward, terminated, truncated in steps:
                    call = call_of(environment.tools, action)
                    output = await session.call_tool(call.name, call.input)
                    assert (output.text, output.reward, output.finished) == (text, reward, terminated or truncated)
                assert (await session.call_tool("step", {"action": "fly"})).reason == "input_validation"

    with serve(as_openreward(environment)) as running:
        run(conversation(running.url))


def test_a_text_game_is_played_by_its_commands(url, run):
    commands = ["enter building", "take lamp", "frobnicate", "out", "quit", "yes"]

    async def play(client):
        async with client.session("adventure", split="train", index=3) as session:
            said = [text_of(await session.get_prompt())]
            outputs = [await session.call_tool("step", {"command": command}) for command in commands]
            refused = await session.call_tool("step", {"command": "LOOK!"})
            return said + [output.text for output in outputs], [output.reward for output in outputs], refused

    async def conversation():
        async with ORSClient(url) as client:
            return await play(client)

    said, rewards, refused = run(conversation())
    env = AdventureEnv()
    first, _ = env.reset(seed=3)
    assert said[0].endswith(first)
    steps = [env.step(command) for command in commands]
    assert said[1:] == [step[0] for step in steps]
    assert rewards == [step[1] for step in steps]
    assert steps[-1][2]
    assert refused.reason == "episode_finished"


class Busy(gymnasium.Env):
    """Keeps a processor busy until it is told to stop, or answers at once."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Discrete(2**62)
    computing, stop = threading.Event(), threading.Event()

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        if action == 1:
            Busy.computing.set()
            while not Busy.stop.is_set():
                sum(range(1000))
        return os.getpid(), 1.0, False, False, {}


def test_an_environment_that_computes_does_not_hold_up_other_sessions(run):
    Busy.computing.clear()
    Busy.stop.clear()

    async def conversation(url):
        import asyncio

        async with ORSClient(url) as client:
            async with client.session("busy", split="train", index=0) as busy:
                async with client.session("busy", split="train", index=1) as other:
                    computing = asyncio.create_task(busy.call_tool("step", {"action": 1}))
                    while not Busy.computing.is_set():
                        await asyncio.sleep(0)
                    for _ in range(5):
                        assert (await other.call_tool("step", {"action": 0})).reward == 1.0
                    assert not computing.done()
                    Busy.stop.set()
                    assert (await computing).reward == 1.0

    with serve_app(create_app([as_ors_environment(Busy, splits={"train": range(2)})])) as running:
        run(conversation(running.url))


def test_a_port_travels_to_other_processes_by_cloudpickle():
    made = as_ors_environment("CartPole-v1", splits={"train": [5]}, instructions="Balance.", action_names=["l", "r"])
    code = (
        "import pickle, sys; made = pickle.load(sys.stdin.buffer); episode = made(made.get_task('train', 0));"
        "episode.setup(); print(made.__name__, made.tools.names, episode.call_tool('step', {'action': 'r'}).reward)"
    )
    travelled = subprocess.run(
        [sys.executable, "-c", code], input=cloudpickle.dumps(made), capture_output=True, check=True, timeout=60
    )
    assert travelled.stdout.decode().strip() == "CartPole ('l', 'r') 1.0"


@pytest.mark.needs("box2d")
def test_sessions_that_begin_at_once_find_what_they_draw_with():
    code = (
        "from concurrent.futures import ThreadPoolExecutor as Pool; from ors_gym_server import as_ors_environment;"
        "made = as_ors_environment('LunarLander-v3', render_mode='rgb_array');"
        "episodes = [made({'seed': seed}) for seed in range(6)];"
        "print([*Pool(6).map(lambda episode: episode.setup(), episodes)])"
    )
    begun = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert "[None, None, None, None, None, None]" in begun.stdout, begun.stderr
