"""ORSEnv does what Gymnasium asks of an environment, over a session on a real server."""

from __future__ import annotations

import math
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.wrappers import (
    Autoreset,
    RecordEpisodeStatistics,
    TimeLimit,
    TransformAction,
    TransformObservation,
    TransformReward,
)

import ors_gym
from ors_gym.dialects import Dialect
from ors_gym.envs.env import ORSEnv
from ors_gym.envs.rendering import image_frame
from ors_gym.errors import NotFoundError, ProtocolError, ToolFailedError
from ors_gym.spaces.spaces import TextSpace
from ors_gym.trajectory import TaskRef
from ors_gym.types import ImageBlock, TextBlock, ToolCall, ToolResultBlock

WALK = ToolCall("walk", {"steps": 1})
RUN = ToolCall("walk", {"steps": 3})
ENDLESS: dict[str, object] = {}
ENDLESS["steps"] = ENDLESS


@pytest.mark.parametrize("mode", ["text", "messages", "multimodal"])
def test_gymnasiums_environment_checker_has_no_complaint(make, mode):
    check_env(make(observation_mode=mode, max_turns=10).unwrapped)


class TestTasks:
    def test_a_seed_draws_the_same_tasks_again(self, make):
        env = make()
        episodes = [[env.reset(seed=seed)[0], env.reset()[0], env.reset()[0]] for seed in (3, 3, 4)]
        assert episodes[0] == episodes[1] != episodes[2]

    def test_tasks_come_from_the_first_train_split_by_default(self, make):
        assert make().reset(seed=0)[1]["task"].split == "practice"
        assert make(split="exam").reset(seed=0)[0] == "Walk 40 steps."

    def test_an_index_or_a_task_object_names_a_task(self, make):
        env = make()
        assert env.reset(options={"task_index": 3})[0] == "Walk 5 steps."
        observation, info = env.reset(options={"task": {"goal": 99}})
        assert observation == "Walk 99 steps."
        assert info["task"] == TaskRef("walk", task={"goal": 99})
        assert env.unwrapped.task == info["task"]

    def test_naming_a_task_leaves_the_random_sequence_as_it_is(self, make):
        env = make()
        first, second = env.reset(seed=1)[0], env.reset()[0]
        assert env.reset(seed=1)[0] == first
        env.reset(options={"task_index": 0})
        assert env.reset()[0] == second

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"task_index": 10}, "no task 10: split 'practice' of 'walk' has tasks 0 to 9"),
            ({"task_index": -1}, "no task -1"),
            ({"task_index": 1, "task": {"goal": 1}}, "not both"),
            ({"taskindex": 1}, "task and task_index, not taskindex"),
            ({"task_index": "1"}, "'task_index'. must be a whole number or None, got str"),
            ({"task_index": [1]}, "'task_index'. must be a whole number or None, got list"),
            ({"task": "goal"}, "'task'. must be a mapping or None, got str"),
            (["task"], "options must be a mapping, got list"),
        ],
    )
    def test_an_unknown_task_is_refused_naming_the_known_ones(self, make, options, says):
        with pytest.raises(ValueError, match=says):
            make().reset(options=options)

    def test_an_unknown_environment_or_split_is_refused_with_what_there_is(self, make, server):
        with pytest.raises(NotFoundError, match="'nowhere'; the server has 'walk', 'quiz', 'faulty', 'kitchen'"):
            make("nowhere")
        with pytest.raises(ValueError, match="'walk' has no split 'train'; it has 'exam', 'practice', 'none'"):
            make(split="train")
        with pytest.raises(ValueError, match="split 'none' of 'walk' has no tasks"):
            make(split="none").reset()
        with pytest.raises(
            ValueError, match="env_name is required: the server has 'walk', 'quiz', 'faulty', 'kitchen'"
        ):
            ORSEnv(server.url)

    def test_a_task_may_have_its_own_tools(self, make):
        env = make()
        assert "jump_5" not in env.unwrapped.tools.names
        env.reset(options={"task_index": 3})
        assert env.unwrapped.tools.names[-1] == "jump_5"


class TestObservations:
    def test_text_is_the_prompt_and_then_each_results_text(self, make):
        env = make()
        assert env.observation_space == TextSpace()
        observation, info = env.reset(options={"task_index": 0})
        assert observation == "Walk 2 steps."
        assert [image.mime_type for image in info["images"]] == ["image/png"]
        observation, _, _, _, info = env.step(ToolCall("look"))
        assert observation == "trees"
        assert info["images"] == info["outputs"][0].images
        assert info["outputs"][0].metadata == {"place": 0}

    def test_multimodal_is_text_and_images_in_the_environments_order(self, make):
        env = make(observation_mode="multimodal")
        observation, info = env.reset(options={"task_index": 0})
        assert observation == (TextBlock("Walk 2 steps."), info["images"][0])
        assert [type(block) for block in env.step(ToolCall("look"))[0]] == [TextBlock, ImageBlock]
        assert env.step(ToolCall("quit"))[0] == (TextBlock("'quit' is not a valid tool"),)

    def test_messages_are_the_conversation_so_far(self, make):
        env = make(observation_mode="messages")
        observation, _ = env.reset(options={"task_index": 0})
        assert [message.role for message in observation] == ["user"]
        observation, *_ = env.step('Go.<tool_call>{"name": "walk", "arguments": {"steps": 1}}</tool_call>')
        said, came = observation[1:]
        assert (said.role, said.text, said.tool_calls[0].name) == ("assistant", "Go.", "walk")
        assert came.blocks == (ToolResultBlock(said.tool_calls[0].id, (TextBlock("at 1 of 2"),)),)
        observation, *_ = env.step("What now?")
        assert [message.role for message in observation] == ["user", "assistant"] * 2 + ["user"]
        assert observation[-2].text == "What now?"
        assert "contains no tool call" in observation[-1].text

    def test_an_unknown_mode_is_refused_with_the_modes_there_are(self, make):
        with pytest.raises(ValueError, match="one of 'text', 'messages', 'multimodal', not 'pixels'"):
            make(observation_mode="pixels")


class TestRewardsAndEnds:
    def test_no_reward_is_zero_and_said_to_be_none(self, make):
        env = make()
        env.reset(options={"task_index": 0})
        _, reward, _, _, info = env.step(WALK)
        assert (reward, info["reward_given"]) == (0.0, False)
        _, reward, _, _, info = env.step(ToolCall("look"))
        assert (reward, info["reward_given"]) == (0.0, True)
        _, reward, terminated, truncated, info = env.step(WALK)
        assert (reward, info["reward_given"], terminated, truncated) == (1.0, True, True, False)
        assert info["stop_reason"] == "finished"

    def test_after_an_end_a_reset_is_needed(self, make):
        env = make()
        env.reset(options={"task_index": 0})
        assert env.step(RUN)[2]
        with pytest.raises(ResetNeeded):
            env.step(WALK)
        assert env.reset(options={"task_index": 0})[0] == "Walk 2 steps."

    def test_a_step_before_any_reset_is_refused(self, server):
        with pytest.raises(ResetNeeded):
            ORSEnv(server.url, "walk").step(WALK)

    def test_a_turn_limit_truncates(self, make):
        env = make(max_turns=2)
        env.reset(options={"task_index": 9})
        assert env.step(WALK)[2:4] == (False, False)
        _, _, terminated, truncated, info = env.step("nothing to say")
        assert (terminated, truncated, info["stop_reason"]) == (False, True, "max_turns")

    def test_an_end_on_the_last_turn_is_the_environments(self, make):
        env = make(max_turns=1)
        env.reset(options={"task_index": 0})
        assert env.step(RUN)[2:4] == (True, False)

    def test_a_time_limit_truncates_in_the_middle_of_a_call(self, make):
        env = make("faulty", split="stuck", max_episode_seconds=0.3)
        env.reset(options={"task_index": 0})
        observation, reward, terminated, truncated, info = env.step(ToolCall("act"))
        assert (reward, terminated, truncated, info["stop_reason"]) == (0.0, False, True, "max_episode_seconds")
        assert observation == "The episode's time is over."
        assert info["outputs"] == ()

    @pytest.mark.parametrize("limits", [{"max_turns": 0}, {"max_episode_seconds": 0}])
    def test_limits_that_allow_nothing_are_refused(self, make, limits):
        with pytest.raises(ValueError, match="at least 1"):
            make(**limits)

    def test_an_infrastructure_failure_is_raised_and_the_environment_can_be_reset(self, make, server):
        env = make("faulty", tool_errors="fail")
        env.reset(options={"task_index": 2})
        env.step(ToolCall("act"))
        with pytest.raises(ToolFailedError, match="something broke"):
            env.step(ToolCall("act"))
        with pytest.raises(ResetNeeded):
            env.step(ToolCall("act"))
        assert env.reset(options={"task_index": 0})[0] == "sound"

    def test_an_episode_that_cannot_begin_leaves_no_session(self, make):
        env = make("faulty")
        with pytest.raises(ors_gym.ORSError, match="no prompt today"):
            env.reset(options={"task_index": 3})
        assert env.reset(options={"task_index": 0})[0] == "sound"


class TestActions:
    @pytest.mark.parametrize(
        ("action", "reason", "says"),
        [
            (ToolCall("quit"), "not_found", "'quit' is not a valid tool"),
            (ToolCall("walk", {"steps": 4}), "input_validation", "less than or equal to 3"),
            ({"name": "walk", "input": {}}, "input_validation", "Field required"),
            (ToolCall("walk", {"steps": math.nan}), "input_validation", "no JSON"),
            (ToolCall("walk", ENDLESS), "input_validation", "no JSON"),
            ({"name": "walk", "input": [1]}, "invalid_call", "must be a JSON object"),
            ({"input": {}}, "invalid_call", 'no "name"'),
            ("I walk on.", "no_tool_call", "contains no tool call"),
            ("<tool_call>{</tool_call>", "invalid_json", "Write a call as <tool_call>"),
        ],
    )
    def test_the_agents_mistakes_are_observations_with_a_reason_and_a_penalty(self, make, action, reason, says):
        env = make(penalty=-0.25)
        env.reset(options={"task_index": 0})
        observation, reward, terminated, truncated, info = env.step(action)
        assert says in observation
        assert (reward, terminated, truncated) == (-0.25, False, False)
        assert (info["reason"], info["reward_given"]) == (reason, False)
        assert env.step(WALK)[4].get("reason") is None, "the episode goes on"

    def test_a_message_with_several_calls_makes_them_in_order_up_to_the_end(self, make):
        env = make()
        env.reset(options={"task_index": 0})
        call = '<tool_call>{"name": "walk", "arguments": {"steps": 1}}</tool_call>'
        observation, reward, terminated, _, info = env.step(call * 3)
        assert observation == "at 1 of 2\nat 2 of 2"
        assert (reward, terminated, len(info["outputs"]), info["tool_calls"]) == (1.0, True, 2, (WALK, WALK))

    def test_a_plain_answer_goes_to_the_terminal_tool_and_ends_the_episode(self, make):
        env = make("quiz", observation_mode="messages")
        env.reset()
        observation, reward, terminated, _, info = env.step("<think>2 + 2</think>4")
        assert (reward, terminated, info["stop_reason"]) == (1.0, True, "finished")
        assert [message.text for message in observation[1:]] == ["4", "graded"]
        assert observation[1].tool_calls == (), "the model never called a tool it does not know"

    def test_the_terminal_tool_may_be_called_by_name(self, make):
        env = make("quiz")
        env.reset()
        assert env.step(env.action_space.sample())[2]

    def test_text_is_read_in_the_models_own_form(self, make):
        env = make(action_parser="llama")
        env.reset(options={"task_index": 0})
        assert env.step('{"name": "walk", "parameters": {"steps": 1}}')[0] == "at 1 of 2"

    def test_a_parser_of_ones_own_reads_text(self, make):
        class Steps(Dialect):
            name, form = "steps", "a number"

            def read(self, reading, thinking_open):
                reading.add(ToolCall("walk", {"steps": int(reading.text)}))

        env = make(action_parser=Steps())
        env.reset(options={"task_index": 9})
        assert env.step("3")[0] == "at 3 of 11"

    def test_another_type_is_the_programmers_mistake_and_harms_nothing(self, make):
        env = make()
        env.reset(options={"task_index": 0})
        for action in (3, ToolCall("walk", [1]), ToolCall(4)):
            with pytest.raises(TypeError):
                env.step(action)
        assert env.step(WALK)[0] == "at 1 of 2"


class TestRendering:
    def test_ansi_is_the_episode_as_text(self, make):
        env = make(render_mode="ansi")
        env.reset(options={"task_index": 0})
        env.step("Hm.")
        env.step(RUN)
        assert env.render().splitlines() == [
            "walk:practice[0]",
            "Walk 2 steps.",
            "> Hm.",
            "No tool was called: the message contains no tool call, and this environment accepts no plain answer.",
            '> walk {"steps": 3}',
            "at 3 of 2",
            "reward 1",
        ]

    def test_rgb_array_is_the_latest_image_of_the_environment(self, make):
        env = make(render_mode="rgb_array")
        env.reset()
        assert (env.render() == np.full((2, 4, 3), (255, 0, 0), dtype=np.uint8)).all()
        env.step(ToolCall("look"))
        env.step(WALK)
        assert (env.render() == np.full((2, 4, 3), (0, 0, 255), dtype=np.uint8)).all()

    def test_rgb_array_is_the_text_where_there_is_no_image(self, make):
        env = make("quiz", render_mode="rgb_array")
        env.reset()
        before = env.render()
        assert (before.shape, before.dtype) == ((480, 640, 3), np.uint8)
        env.step("4")
        assert (env.render() != before).any()

    def test_an_invalid_image_is_named(self):
        with pytest.raises(ProtocolError, match="image/png cannot be decoded"):
            image_frame(ImageBlock("iVBORw0KGgo=", "image/png"))

    def test_an_unknown_render_mode_is_refused(self, server):
        with pytest.raises(ValueError, match="'human'; choose one of ansi, rgb_array"):
            ORSEnv(server.url, "walk", render_mode="human")


def test_an_environment_says_what_it_is(make, server):
    env = make().unwrapped
    assert repr(env) == str(env) == f"<ORSEnv<ors_gym/ORS-v0, walk:practice at {server.url}>>"
    assert env.spec.id == "ors_gym/ORS-v0"
    assert gym.envs.registration.EnvSpec.from_json(env.spec.to_json()).make().unwrapped.spec.kwargs == env.spec.kwargs
    assert str(ORSEnv(server.url, "walk")) == f"<ORSEnv<walk:practice at {server.url}>>"


class TestUnderGymnasium:
    def test_wrappers_work(self, make):
        env = TimeLimit(make(), 3)
        env = TransformAction(env, lambda steps: ToolCall("walk", {"steps": steps}), gym.spaces.Discrete(3, start=1))
        env = TransformObservation(env, str.upper, TextSpace())
        env = TransformReward(env, lambda reward: reward - 0.1)
        env = RecordEpisodeStatistics(env)
        assert env.reset(options={"task_index": 9})[0] == "WALK 11 STEPS."
        env.step(1)
        observation, reward, *_ = env.step(2)
        assert (observation, reward) == ("AT 3 OF 11", -0.1)
        _, _, terminated, truncated, info = env.step(3)
        assert (terminated, truncated) == (False, True)
        assert info["episode"]["l"] == 3
        assert info["episode"]["r"] == pytest.approx(-0.3)

    def test_the_autoreset_wrapper_works(self, make):
        env = Autoreset(make())
        env.reset(options={"task_index": 0})
        assert env.step(RUN)[2]
        observation, reward, terminated, truncated, _ = env.step(RUN)
        assert observation.startswith("Walk")
        assert (reward, terminated, truncated) == (0.0, False, False)

    def test_a_sync_vector_env_steps_members(self, server):
        envs = SyncVectorEnv([lambda: gym.make("ors_gym/ORS-v0", url=server.url, env_name="walk")] * 3)
        observations, _ = envs.reset(options={"task_index": 0})
        assert observations == ("Walk 2 steps.",) * 3
        observations, rewards, terminations, _, _ = envs.step([WALK, RUN, "Hm."])
        assert observations[:2] == ("at 1 of 2", "at 3 of 2")
        assert list(rewards) == [0, 1, 0]
        assert list(terminations) == [False, True, False]
        assert envs.step(envs.action_space.sample())[0][1].startswith("Walk")
        envs.close()
        assert server.live_sessions == {}

    def test_an_async_vector_env_steps_members_in_processes_of_their_own(self, server):
        make = partial(gym.make, "ors_gym:ors_gym/ORS-v0", url=server.url, env_name="walk")
        envs = AsyncVectorEnv([make] * 2, shared_memory=False, context="spawn")
        observations, infos = envs.reset(options={"task_index": 0})
        assert observations == ("Walk 2 steps.",) * 2
        assert infos["task"][1] == TaskRef("walk", "practice", 0)
        observations, rewards, terminations, _, _ = envs.step([WALK, RUN])
        assert observations == ("at 1 of 2", "at 3 of 2")
        assert (list(rewards), list(terminations)) == ([0, 1], [False, True])
        envs.close()
        assert server.live_sessions == {}
