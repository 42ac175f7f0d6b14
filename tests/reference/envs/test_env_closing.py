"""What an environment leaves behind: no session and no secret."""

from __future__ import annotations

import gc
import pickle

import gymnasium as gym
import pytest
from gymnasium.error import ClosedEnvironmentError, ResetNeeded

from ors_gym.client.timeouts import Timeouts
from ors_gym.dialects import dialect
from ors_gym.envs.env import ORSEnv
from ors_gym.redaction import Secret
from ors_gym.types import ToolCall

WALK, RUN = ToolCall("walk", {"steps": 1}), ToolCall("walk", {"steps": 3})


class TestClosing:
    def test_closing_twice_is_closing_once(self, make, server):
        env = make()
        env.reset()
        assert len(server.live_sessions) == 1
        env.close()
        assert server.live_sessions == {}
        env.close()
        with pytest.raises(ClosedEnvironmentError):
            env.unwrapped.step(WALK)
        with pytest.raises(ClosedEnvironmentError):
            env.unwrapped.reset()

    def test_an_interrupt_ends_the_episode_and_the_environment_can_be_reset(self, make, server):
        env = make("kitchen")
        env.reset()
        with pytest.raises(KeyboardInterrupt):
            env.step(ToolCall("press_ctrl_c"))
        with pytest.raises(ResetNeeded):
            env.step(ToolCall("stir"))
        env.reset()
        assert env.step(ToolCall("stir"))[0] == "stirred"
        env.close()
        assert server.live_sessions == {}

    def test_a_session_is_deleted_as_soon_as_its_episode_is_over(self, make, server):
        env = make()
        for _ in range(3):
            env.reset(options={"task_index": 0})
            env.step(RUN)
        env.reset()
        env.reset()
        env.close()
        assert server.live_sessions == {}

    def test_an_environment_that_is_forgotten_closes_its_session(self, server):
        env = ORSEnv(server.url, "walk")
        env.reset()
        portal, episode = env._portal, env._episode
        del env
        gc.collect()
        portal.run(episode.close())  # already under way; this waits for it
        assert server.live_sessions == {}


class TestSecrets:
    def test_secrets_given_to_gym_make_are_shown_nowhere(self, make):
        env = make(api_key="k-3141", secrets={"TOKEN": "t-2718"}, client_options={"headers": {"X-Own": "h-1618"}})
        shown = (
            repr(env) + repr(env.spec) + str(env.unwrapped.spec.pprint(disable_print=True)) + repr(env.unwrapped.recipe)
        )
        assert not any(secret in shown for secret in ("k-3141", "t-2718", "h-1618"))

    def test_a_spec_is_written_without_secrets_and_made_with_them_again(self, server):
        env = gym.make(
            "ors_gym/ORS-v0",
            url=server.url.replace("//", "//me:p-1414@"),
            env_name="walk",
            api_key="k-3141",
            secrets={"TOKEN": "t-2718"},
            timeouts=Timeouts(call_seconds=77.0),
        )
        written = env.spec.to_json()
        env.close()
        assert not any(secret in written for secret in ("k-3141", "t-2718", "p-1414"))
        again = gym.make(gym.envs.registration.EnvSpec.from_json(written), secrets={"TOKEN": "t-1618"})
        assert again.unwrapped.recipe.client.connection.sender.timeouts == Timeouts(call_seconds=77.0)  # type: ignore[attr-defined]
        assert again.unwrapped.recipe.session_options["secrets"] == {"TOKEN": "t-1618"}  # type: ignore[attr-defined]
        again.close()

    def test_a_spec_that_is_not_json_has_a_clear_error(self, make):
        with pytest.raises(ValueError, match="the spec of ors_gym/ORS-v0 cannot be written as JSON"):
            make(action_parser=dialect("hermes")).spec.to_json()

    def test_a_password_in_the_url_is_shown_nowhere(self, server):
        env = gym.make("ors_gym/ORS-v0", url=server.url.replace("//", "//me:p-1414@"), env_name="walk")
        assert "p-1414" not in repr(env) + repr(env.spec) + repr(env.unwrapped.recipe)  # type: ignore[attr-defined]
        again = gym.make(env.spec)
        assert again.reset(options={"task_index": 0})[0] == "Walk 2 steps."
        again.close()

    def test_an_environment_can_be_made_again_from_its_spec(self, make):
        env = make(api_key="k-3141", secrets={"TOKEN": "t-2718"})
        again = gym.make(env.spec)
        assert again.reset(options={"task_index": 0})[0] == "Walk 2 steps."
        assert again.unwrapped.recipe.session_options["secrets"] == {"TOKEN": "t-2718"}  # type: ignore[attr-defined]
        again.close()

    def test_a_secret_can_be_given_from_the_start(self, make):
        assert make(secrets=Secret({"TOKEN": "t"})).unwrapped.recipe.session_options["secrets"] == {"TOKEN": "t"}
        assert repr(Secret("t")) == "Secret(***)"
        assert Secret("t") == pickle.loads(pickle.dumps(Secret("t"))) != Secret("u")

    def test_a_mistyped_option_does_not_print_the_others(self, make):
        with pytest.raises(ValueError, match="unknown option max_turn;") as raised:
            make(api_key="k-3141", max_turn=3)
        assert "k-3141" not in str(raised.value)
