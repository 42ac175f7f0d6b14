"""Served Gymnasium environments keep their spaces: what a learner gets over the wire is what it gets without one."""

from __future__ import annotations

import copy
import gc
import pickle
from functools import partial

import gymnasium as gym
import httpx
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation, RecordEpisodeStatistics, TimeLimit

import ors_gym  # noqa: F401  (it registers ors_gym/ORS-v0)
from ors_gym import ORSClient, RandomPolicy
from ors_gym.errors import NotFoundError, SessionLostError, ToolFailedError
from ors_gym.rollouts.episode import EpisodeRunner
from ors_gym.rollouts.tasks import load_tasks
from ors_gym.spaces.native import RESET, SPACES, STEP
from ors_gym_server import as_openreward, as_ors_environment, create_app, tool
from tests.support.exactness import are_identical
from tests.support.native_environments import Fragile, Zoo
from tests.support.ors_servers import serve, serve_app
from tests.support.task_environments import OneTask

MODES = list(AutoresetMode)


def zoo(**arguments):
    return gym.wrappers.OrderEnforcing(Zoo(**arguments))


@pytest.fixture(scope="module")
def cartpole():
    return as_ors_environment("CartPole-v1", splits={"train": range(3), "test": range(50, 53)})


@pytest.fixture(scope="module")
def server(cartpole):
    classes = [cartpole, as_ors_environment(zoo, name="Zoo"), as_ors_environment(Fragile)]
    with serve_app(create_app(classes)) as running:
        yield running


@pytest.fixture
def make(server):
    made = []

    def make(env_name, num_envs=None, **options):
        arguments = {"url": server.url, "env_name": env_name, "spaces": "native", **options}
        if num_envs is None:
            made.append(gym.make("ors_gym/ORS-v0", **arguments))
        else:
            made.append(gym.make_vec("ors_gym/ORS-v0", num_envs, **arguments))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_the_spaces_and_every_value_are_the_environments_own_to_the_bit(make):
    env, local = make("zoo"), zoo()
    assert env.observation_space == local.observation_space
    assert repr(env.action_space) == repr(local.action_space)
    local.action_space.seed(2)
    assert are_identical(env.reset(seed=9, options={"a": 1}), local.reset(seed=9, options={"a": 1}))
    ends = set()
    for _ in range(60):
        action = local.action_space.sample()
        step, expected = env.step(action), local.step(action)
        assert are_identical(tuple(step), tuple(expected))
        if step[2] or step[3]:
            ends.add(step[2:4])
            assert are_identical(env.reset(), local.reset())
    assert {(True, False), (False, True)} <= ends


@pytest.mark.parametrize("sessions", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_a_vector_is_what_a_sync_vector_env_is(make, mode, sessions):
    envs = make("zoo", 4, autoreset_mode=mode, sessions=sessions)
    local = SyncVectorEnv([zoo] * 4, autoreset_mode=mode)
    assert envs.observation_space == local.observation_space
    assert envs.action_space == local.action_space
    assert envs.metadata == local.metadata
    local.action_space.seed(2)
    assert are_identical(envs.reset(seed=5), local.reset(seed=5))
    for _ in range(14):
        actions = local.action_space.sample()
        batch, expected = envs.step(actions), local.step(actions)
        assert are_identical(batch, expected)
        over = batch[2] | batch[3]
        if mode is AutoresetMode.DISABLED and over.any():
            assert are_identical(
                envs.reset(options={"reset_mask": over}), local.reset(options={"reset_mask": over.copy()})
            )


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_time_limit_truncates_and_leaves_what_bootstrapping_needs(make, mode):
    envs = make("cartpole", 2, autoreset_mode=mode, max_episode_steps=4)
    local = SyncVectorEnv([lambda: TimeLimit(gym.make("CartPole-v1"), 4)] * 2, autoreset_mode=mode)
    assert are_identical(envs.reset(seed=1), local.reset(seed=1))
    for number in range(1, 11):
        batch, expected = envs.step(np.array([0, 1])), local.step(np.array([0, 1]))
        assert are_identical(batch, expected)
        if number == 4:
            assert batch[3].tolist() == [True, True]
            assert batch[2].tolist() == [False, False]
            last = batch[4]["final_obs"][0] if mode is AutoresetMode.SAME_STEP else batch[0][0]
            alone = gym.make("CartPole-v1")
            alone.reset(seed=1)
            assert are_identical([alone.step(0)[0] for _ in range(4)][-1], last)


def test_the_environments_own_limit_truncates_in_text_and_in_native_form(server, make):
    single = make("cartpole", max_episode_steps=2)
    single.reset(seed=0)
    single.step(0)
    assert single.step(0)[2:4] == (False, True)
    lake = as_ors_environment("FrozenLake-v1", name="Lake", max_episode_steps=1)
    with serve_app(create_app([lake])) as running:
        envs = gym.make_vec("ors_gym/ORS-v0", 2, url=running.url, env_name="lake", split="train")
        envs.reset(seed=0)
        *_, terminations, truncations, _ = envs.step([{"name": "step", "input": {"action": "left"}}] * 2)
        assert (terminations.tolist(), truncations.tolist()) == ([False, False], [True, True])
        native = gym.make("ors_gym/ORS-v0", url=running.url, spaces="native")
        native.reset(seed=0)
        assert native.step(0)[2:4] == (False, True)
        envs.close()
        native.close()


def test_gymnasiums_checker_and_wrappers_take_it(make):
    check_env(make("cartpole").unwrapped, skip_render_check=True)
    stacked, local = (FrameStackObservation(env, 3) for env in (make("cartpole"), gym.make("CartPole-v1")))
    assert are_identical(stacked.reset(seed=1), local.reset(seed=1))
    assert are_identical(stacked.step(1), local.step(1))
    counted = RecordEpisodeStatistics(make("fragile"))
    counted.reset()
    infos = [counted.step(0)[4] for _ in range(3)]
    assert infos[-1]["episode"]["r"] == 3.0


def test_it_draws_as_the_environment_does(make):
    env, envs = make("cartpole", render_mode="rgb_array"), make("cartpole", 2, render_mode="rgb_array")
    local = gym.make("CartPole-v1", render_mode="rgb_array")
    for each in (env, local, envs):
        each.reset(seed=3)
    assert are_identical(env.render(), local.render())
    assert are_identical(envs.render()[0], local.render())
    assert are_identical(envs.call("render")[1], envs.render()[1])
    with pytest.raises(ValueError, match="was refused: "):
        make("zoo", render_mode="rgb_array")  # its factory makes it undrawn


def test_a_split_gives_its_own_tasks_only(make):
    def first_observations(split):
        env = make("cartpole", split=split)
        observations = [env.reset(seed=4)[0]] + [env.reset()[0] for _ in range(12)]
        return {observation.tobytes() for observation in observations}

    local = gym.make("CartPole-v1")
    train, test = first_observations("train"), first_observations("test")
    assert train == {local.reset(seed=seed)[0].tobytes() for seed in range(3)}
    assert test == {local.reset(seed=seed)[0].tobytes() for seed in range(50, 53)}


class Engine(Fragile):
    """Leaves the seed of reset alone and takes it by a method, as NLE does."""

    def seed(self, core=None, disp=None, reseed=False):
        self.first = core + disp

    def reset(self, *, seed=None, options=None):
        super().reset()
        return np.full(1, self.first % 9), {}


def test_a_seed_is_given_in_the_way_that_the_environment_takes_it():
    with serve_app(create_app([as_ors_environment(Engine, check_seeds=False)])) as running:
        envs = gym.make_vec("ors_gym/ORS-v0", 3, url=running.url, spaces="native")
        assert envs.reset(seed=1)[0].tolist() == [[2], [4], [6]]
        envs.close()


class TestAttributes:
    @pytest.mark.parametrize("spaces", ["native", "text"])
    def test_of_members_are_called_and_read_as_gymnasiums(self, server, make, spaces):
        envs = make("cartpole", 2, spaces=spaces)
        envs.reset(seed=3)
        assert envs.get_attr("action_space") == (envs.single_action_space,) * 2
        assert envs.get_attr("render_mode") == (None, None)
        assert envs.call("render") == (None, None)
        if spaces == "text":
            assert envs.get_attr("np_random_seed") == (3, 4)
            assert envs.get_attr("task") == envs.tasks

    @pytest.mark.parametrize("spaces", ["native", "text"])
    def test_on_the_server_are_out_of_reach_and_that_is_said(self, make, spaces):
        envs = make("cartpole", 2, spaces=spaces)
        with pytest.raises(AttributeError, match="no 'gravity' here: the environments are on the server"):
            envs.get_attr("gravity")
        with pytest.raises(AttributeError, match="'gravity' cannot be set"):
            envs.set_attr("gravity", 3.0)


class TestCopies:
    @pytest.mark.parametrize("spaces", ["native", "text"])
    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
    def test_of_an_environment_without_an_episode_are_environments_of_their_own(self, make, spaces, copied):
        env = make("cartpole", spaces=spaces, api_key="k-2718")
        again = copied(env)
        try:
            assert (again.spec, again.observation_space) == (env.spec, env.observation_space)
            assert "k-2718" not in repr(vars(again.unwrapped))
            assert are_identical(again.reset(seed=2)[0], env.reset(seed=2)[0])
        finally:
            again.close()
        env.render()

    @pytest.mark.parametrize("spaces", ["native", "text"])
    def test_of_a_vector_too(self, make, spaces):
        envs = make("cartpole", 2, spaces=spaces, autoreset_mode="SameStep")
        again = pickle.loads(pickle.dumps(envs))
        assert (again.num_envs, again.metadata) == (2, envs.metadata)
        again.close()

    @pytest.mark.parametrize("num_envs", [None, 2])
    @pytest.mark.parametrize("spaces", ["native", "text"])
    def test_of_an_episode_are_refused(self, make, spaces, num_envs):
        env = make("cartpole", num_envs, spaces=spaces)
        env.reset()
        with pytest.raises(TypeError, match="its episode belongs to this process"):
            copy.deepcopy(env)


class TestMistakes:
    def test_in_the_order_of_calls_are_gymnasiums_errors(self, make):
        env = make("fragile").unwrapped
        with pytest.raises(ResetNeeded):
            env.step(0)
        env.close()
        env.close()
        with pytest.raises(ClosedEnvironmentError):
            env.reset()

    def test_of_the_environment_are_raised_and_its_session_continues(self, make):
        env = make("fragile")
        env.reset(seed=1)
        with pytest.raises(ToolFailedError, match="RuntimeError: it broke"):
            env.step(1)
        assert env.step(0)[0].tolist() == [1]

    def test_in_options_have_clear_errors(self, server, make):
        with pytest.raises(ValueError, match="max_turns, observation_mode cannot be used with spaces='native'"):
            make("fragile", max_turns=3, observation_mode="text")
        with pytest.raises(ValueError, match="spaces must be one of 'text', 'native', not 'raw'"):
            make("fragile", spaces="raw")
        with pytest.raises(ValueError, match="env_name is required: the server has 'cartpole'"):
            make(None)
        with pytest.raises(ValueError, match="must be a multiple of sessions=2"):
            make("fragile", 3, sessions=2)
        with pytest.raises(ValueError, match=r"num_envs must be 1 to 1024 in one session"):
            make("fragile", 1025)
        with pytest.raises(ValueError, match="there is no split 'exam'"):
            make("fragile", split="exam")
        with pytest.raises(NotFoundError):
            make("chess")
        with pytest.raises(ValueError, match="the action cannot be sent: a value of type object"):
            env = make("fragile")
            env.reset()
            env.step(object())

    def test_an_environment_of_another_kind_has_no_spaces_to_give(self):
        class Echo(OneTask):
            def get_prompt(self):
                return "say"

            @tool
            def say(self) -> str:
                """Say it."""
                return "said"

        with serve_app(create_app([Echo])) as running:
            with pytest.raises(ValueError, match="'echo' has no native spaces"):
                gym.make("ors_gym/ORS-v0", url=running.url, spaces="native")

    def test_spaces_that_are_not_gymnasiums_are_named(self):
        class Board(gym.spaces.Discrete):
            pass

        class Chess(Fragile):
            observation_space = Board(3)

        with serve_app(create_app([as_ors_environment(Chess)])) as running:
            with pytest.raises(ValueError, match=r"Board is none of Gymnasium's.*wrap the environment"):
                gym.make("ors_gym/ORS-v0", url=running.url, spaces="native")


def test_after_a_lost_session_reset_begins_another_that_the_seed_still_decides(server, make):
    def draws(after_loss):
        env = make("fragile")
        env.reset(seed=6)
        headers = {"X-Session-ID": env.unwrapped._remote._session.id}
        for path in ("/delete", "/delete_session"):
            assert httpx.post(server.url + path, headers=headers).is_success
        with pytest.raises(SessionLostError):
            env.step(0)
        if after_loss == "step":
            with pytest.raises(ResetNeeded):
                env.unwrapped.step(0)
        return env.reset()[1]["draw"]

    assert draws("step") == draws("reset")


@pytest.mark.parametrize("num_envs", [None, 2])
def test_a_forgotten_environment_is_closed_on_the_server(server, num_envs):
    while Fragile.closed.acquire(blocking=False):
        pass
    make = gym.make if num_envs is None else partial(gym.make_vec, num_envs=num_envs)
    env = make("ors_gym/ORS-v0", url=server.url, env_name="fragile", spaces="native")
    del env
    gc.collect()
    for _ in range(num_envs or 1):
        assert Fragile.closed.acquire(timeout=60)


@pytest.mark.parametrize("by_sdk", [False, True])
def test_other_clients_see_an_ordinary_server(server, cartpole, run, by_sdk):
    async def conversation(url):
        async with ORSClient(url) as client:
            tools = await client.list_tools("cartpole")
            assert [spec.name for spec in tools.tools] == ["step"]
            (task,) = await load_tasks(client, "cartpole", "train", limit=1)
            assert (await EpisodeRunner(client, RandomPolicy(0)).run_episode(task)).terminated
            async with client.session("cartpole", split="train", index=0) as session:
                refused = [await session.call_tool(name) for name in (SPACES, RESET, STEP)]
                assert [output.reason for output in refused] == ["not_found"] * 3
            async with client.session("cartpole", task={"gymnasium": {}}) as session:
                assert (await session.call_tool(STEP, {"action": 0})).reason == "input_validation"
                assert (await session.call_tool(RESET, {"seed": {"q": 1}})).reason == "input_validation"
                assert (await session.call_tool(RESET, {"seed": 4})).blocks == ()
                assert (await session.call_tool(STEP)).reason == "input_validation"
                stepped = await session.call_tool(STEP, {"action": 1})
                assert (stepped.ok, stepped.reward, stepped.finished, stepped.blocks) == (True, 1.0, False, ())
                assert (await session.call_tool("step", {"action": "left"})).reason == "not_found"

    if not by_sdk:
        run(conversation(server.url))
        return
    with serve(as_openreward(cartpole)) as running:
        run(conversation(running.url))
        env = gym.make("ors_gym/ORS-v0", url=running.url, spaces="native")
        local = gym.make("CartPole-v1")
        assert are_identical(env.reset(seed=1), local.reset(seed=1))
        assert are_identical([env.step(action) for action in (0, 1, 1)], [local.step(action) for action in (0, 1, 1)])
        env.close()
