"""ORS environments are found by Gymnasium's own means."""

from __future__ import annotations

import subprocess
import sys

import gymnasium as gym
import pytest
from openreward.environments import Environment, TextBlock, ToolOutput, tool

from ors_gym import ORS_ID, register_envs
from ors_gym.envs.env import ORSEnv
from ors_gym.envs.vector_env import ORSVectorEnv
from ors_gym.errors import ConnectError
from tests.support.ors_servers import free_port, serve


class Echo(Environment):
    """Says what the task says."""

    @classmethod
    def list_splits(cls):
        return ["train", "test"]

    @classmethod
    def list_tasks(cls, split):
        return [{"split": split}]

    def get_prompt(self):
        return [TextBlock(text=f"{type(self).__name__} {self.task_spec['split']}")]

    @tool
    def stop(self) -> ToolOutput:
        """Stop."""
        return ToolOutput(blocks=[], reward=1.0, finished=True)


class Mirror(Echo):
    """Another one."""


@pytest.fixture(scope="module")
def url():
    with serve(Echo, Mirror) as running:
        yield running.url


@pytest.fixture(autouse=True)
def registry_left_as_it_was():
    before = dict(gym.registry)
    yield
    gym.registry.clear()
    gym.registry.update(before)


def test_importing_the_package_registers_the_environment_and_its_vector():
    spec = gym.spec(ORS_ID)
    assert spec.entry_point == "ors_gym.envs.making:make_env"
    assert spec.vector_entry_point == "ors_gym.envs.making:make_vector_env"


def test_gymnasium_imports_the_package_itself_when_the_id_names_it(url):
    program = (
        "import gymnasium as gym; "
        f"env = gym.make('ors_gym:ors_gym/ORS-v0', url={url!r}, env_name='echo'); print(env.reset()[0]); env.close(); "
        f"envs = gym.make_vec('ors_gym:ors_gym/ORS-v0', 2, url={url!r}, env_name='echo'); print(envs.reset()[0]); "
        "envs.close()"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "Echo train\n('Echo train', 'Echo train')\n"
    assert run.stderr == ""


def test_every_environment_of_a_server_gets_an_id(url):
    assert register_envs(url) == ("ors/echo-v0", "ors/mirror-v0")
    env = gym.make("ors/mirror-v0")
    assert isinstance(env.unwrapped, ORSEnv)
    assert env.reset()[0] == "Mirror train"
    env.close()
    envs = gym.make_vec("ors/echo-v0", num_envs=2, split="test")
    assert isinstance(envs, ORSVectorEnv)
    assert envs.reset()[0] == ("Echo test",) * 2
    envs.close()


def test_options_are_kept_and_may_be_overridden(url):
    register_envs(url, namespace="mine", split="test", api_key="k-3141")
    assert "k-3141" not in repr(gym.spec("mine/echo-v0"))
    env = gym.make("mine/echo-v0")
    assert env.reset()[0] == "Echo test"
    env.close()
    env = gym.make("mine/echo-v0", split="train")
    assert env.reset()[0] == "Echo train"
    env.close()


def test_registering_a_server_again_replaces_its_environments(url):
    with serve(Echo) as other:
        register_envs(other.url)
        register_envs(url)
        assert gym.spec("ors/echo-v0").kwargs["url"] == url


def test_an_unknown_id_is_answered_with_the_ids_there_are(url):
    register_envs(url)
    with pytest.raises(gym.error.NameNotFound, match="Did you mean: `mirror`"):
        gym.make("ors/mirro-v0")


def test_an_unknown_option_is_refused(url):
    with pytest.raises(
        ValueError, match="unknown option splitt; the options besides url and env_name are action_parser, api_key"
    ):
        register_envs(url, splitt="test")  # type: ignore[call-arg]


def test_an_unreachable_server_is_reported():
    with pytest.raises(ConnectError):
        register_envs(f"http://127.0.0.1:{free_port()}")
