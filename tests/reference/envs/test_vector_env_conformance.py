"""ORSVectorEnv behaves as Gymnasium's own vector environments do.

Gymnasium 1.4 does not install its tests; what they ask is asked here of ORSVectorEnv on a real server. Its tests by
file (without ``test_``), and where they are answered:

=================================================  ==================================================================
Gymnasium's test                                   here
=================================================  ==================================================================
sync_vector_env: create, metadata                  test_spaces_and_metadata_are_those_of_a_sync_vector_env
sync_vector_env: reset, step, seed, determinism    test_it_does_what_a_sync_vector_env_of_the_same_members_does
sync_vector_env: render                            test_render_gives_each_members_frame
sync_vector_env: custom_space                      all of them: every space here is a custom one
async_vector_env: out_of_order (reset, step)       test_a_step_on_a_step_is_refused, test_receiving_nothing_is_refused
async_vector_env: already_closed                   test_after_close_everything_is_refused
async_vector_env: subenv_error                     test_vector_env.py, TestFailures
autoreset_mode: next_step, within_step, disabled   test_autoreset_in_the_next_step, _in_the_same_step, _disabled
autoreset_mode: metadata, make_vec_autoreset       test_the_autoreset_mode_is_metadata
autoreset_mode: same_step_final_obs                test_autoreset_in_the_same_step
vector_env: vector_env_equal                       test_it_does_what_a_sync_vector_env_of_the_same_members_does
vector_env: obs_action_spaces                      test_spaces_and_metadata_are_those_of_a_sync_vector_env
vector_env: final_obs_info                         test_autoreset_in_the_same_step
vector_env: random_seeding_basics                  test_seeds_are_counted_up_and_kept
vector_env: random_seeds_set_at_retrieval          test_members_are_seeded_apart_before_any_reset
vector_env: partial_reset                          test_a_mask_resets_some_members
vector_env: partial_reset_failure                  test_a_mask_of_another_form_is_refused
vector_env: action_count_compatibility             test_the_number_of_actions_must_be_right
vector_env_info: vector_return_info                test_infos_are_arrays_with_masks
vector_wrapper: inheritance, attributes, metadata  test_a_vector_wrapper_passes_everything_on
wrappers: dict_info_to_list                        test_infos_can_be_turned_into_a_list
wrappers: vector_wrappers (equivalence)            test_vector_wrappers_do_what_single_wrappers_do
wrappers: transform_observation, transform_action  test_vector_wrappers_do_what_single_wrappers_do
wrappers: record_episode_statistics, with modes    test_episode_statistics_are_right_in_every_autoreset_mode
wrappers: normalize_reward                         test_rewards_can_be_normalized
wrappers: record_video                             test_render_gives_each_members_frame (the encoder is not installed)
=================================================  ==================================================================

Not asked, because they do not apply:

- ``set_attr``: members are sessions, not environment objects; what ``call`` and ``get_attr`` know of them is asked in
  tests/server/adapters/test_native.py.
- ``check_spaces``, ``observation_mode``: all members have the same spaces.
- ``copy``, ``no_copy``: observations are immutable.
- shared memory, ``float16``, array conversion, vectorized Box and Dict transforms, ``normalize_observation``, human
  rendering: text is no array.
- ``reset_timeout``, ``step_timeout``: time limits belong to the episode (``max_episode_seconds``) and to the client.
- ``vector_add_info``: the base class's own, used as it is.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError, ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers import TransformReward
from gymnasium.wrappers.vector import (
    DictInfoToList,
    NormalizeReward,
    RecordEpisodeStatistics,
    TransformAction,
    TransformObservation,
)
from gymnasium.wrappers.vector import TransformReward as VectorTransformReward

from ors_gym.spaces.spaces import TextSpace, ToolCallSpace
from ors_gym.types import ToolCall
from tests.support.gym_environments import Walk
from tests.support.ors_servers import serve

MODES = list(AutoresetMode)
WALK = ToolCall("walk", {"steps": 1})
RUN = ToolCall("walk", {"steps": 3})


@pytest.fixture(scope="module")
def server():
    with serve(Walk) as running:
        yield running


@pytest.fixture
def make_vec(server):
    made = []

    def make_vec(num_envs=3, **options):
        made.append(gym.make_vec("ors_gym/ORS-v0", num_envs=num_envs, url=server.url, env_name="walk", **options))
        return made[-1]

    yield make_vec
    for envs in made:
        envs.close()
    assert server.live_sessions == {}, "every session that was opened is closed"


def without_session_ids(infos):
    return {
        key: without_session_ids(value) if isinstance(value, dict) else value
        for key, value in infos.items()
        if "session_id" not in key
    }


def flags(*values):
    return np.array(values, dtype=np.bool_)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("observation_mode", ["text", "messages", "multimodal"])
def test_it_does_what_a_sync_vector_env_of_the_same_members_does(make_vec, mode, observation_mode):
    """Thirty steps of sampled actions, some of them no actions at all: every value the two give is equal."""
    options = {"observation_mode": observation_mode, "penalty": -0.5, "max_turns": 4}
    ours = make_vec(4, autoreset_mode=mode, **options)
    theirs = make_vec(4, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **options)
    assert type(theirs) is SyncVectorEnv
    ours.action_space.seed(7)
    both = [envs.reset(seed=11) for envs in (ours, theirs)]
    episodes = 0
    for number in range(30):
        (observations, infos), (expected_observations, expected_infos) = both
        assert data_equivalence(observations, expected_observations, exact=True)
        assert data_equivalence(without_session_ids(infos), without_session_ids(expected_infos), exact=True)
        assert observations in ours.observation_space
        actions = [*ours.action_space.sample()[:3], "no call" if number % 5 else ToolCall("quit")]
        steps = [envs.step(actions) for envs in (ours, theirs)]
        for value, expected in zip(steps[0][1:4], steps[1][1:4], strict=True):
            assert data_equivalence(value, expected, exact=True)
        ends = steps[0][2] | steps[0][3]
        episodes += ends.sum()
        both = [(step[0], step[4]) for step in steps]
        if mode is AutoresetMode.DISABLED and ends.any():
            both = [envs.reset(options={"reset_mask": ends.copy()}) for envs in (ours, theirs)]
    assert episodes > 10


def test_spaces_and_metadata_are_those_of_a_sync_vector_env(make_vec):
    ours, theirs = make_vec(), make_vec(vectorization_mode="sync")
    assert isinstance(ours, VectorEnv)
    assert ours.num_envs == 3
    assert ours.single_action_space == theirs.single_action_space == ToolCallSpace(ours.recipe.tools)  # type: ignore[attr-defined]
    assert ours.single_observation_space == theirs.single_observation_space == TextSpace()
    assert ours.action_space == theirs.action_space
    assert ours.observation_space == theirs.observation_space
    assert ours.metadata == theirs.metadata
    assert ours.spec.id == "ors_gym/ORS-v0"
    assert repr(ours).startswith("ORSVectorEnv(ors_gym/ORS-v0, walk:practice at http://127.0.0.1:")
    assert repr(ours).endswith(", num_envs=3)")
    assert ours.action_space.sample() in ours.action_space
    assert ours.unwrapped is ours


@pytest.mark.parametrize("mode", MODES)
def test_the_autoreset_mode_is_metadata(make_vec, mode):
    assert make_vec(autoreset_mode=mode).metadata["autoreset_mode"] is mode
    assert make_vec(autoreset_mode=mode.value).metadata["autoreset_mode"] is mode


def test_autoreset_in_the_next_step(make_vec):
    envs = make_vec(2)
    assert envs.reset(options={"task_index": [0, 1]})[0] == ("Walk 2 steps.", "Walk 3 steps.")
    observations, rewards, terminations, truncations, infos = envs.step([RUN, WALK])
    assert observations == ("at 3 of 2", "at 1 of 3")
    assert (list(rewards), list(terminations), list(truncations)) == ([1, 0], [True, False], [False, False])
    assert "final_obs" not in infos
    observations, rewards, terminations, _, infos = envs.step([RUN, WALK])
    assert observations[0].startswith("Walk"), "the action of the member that begins anew is not taken"
    assert observations[1] == "at 2 of 3"
    assert (list(rewards), list(terminations)) == ([0, 0], [False, False])
    assert data_equivalence(infos["_session_id"], flags(True, False))
    assert data_equivalence(infos["_outputs"], flags(False, True))


def test_autoreset_in_the_same_step(make_vec):
    envs = make_vec(2, autoreset_mode="SameStep")
    envs.reset(options={"task_index": [0, 1]})
    observations, rewards, terminations, _, infos = envs.step([RUN, WALK])
    assert observations[0].startswith("Walk")
    assert observations[1] == "at 1 of 3"
    assert (list(rewards), list(terminations)) == ([1, 0], [True, False])
    assert list(infos["final_obs"]) == ["at 3 of 2", None]
    assert infos["final_obs"][0] in envs.single_observation_space
    assert data_equivalence(infos["_final_obs"], flags(True, False))
    assert infos["final_info"]["stop_reason"][0] == "finished"
    assert data_equivalence(infos["_final_info"], flags(True, False))
    observations, *_, infos = envs.step([WALK, WALK])
    assert observations[0].startswith("at 1 of")
    assert "final_obs" not in infos


def test_autoreset_disabled(make_vec):
    envs = make_vec(2, autoreset_mode="Disabled")
    envs.reset(options={"task_index": [0, 1]})
    terminations = envs.step([RUN, WALK])[2]
    with pytest.raises(ResetNeeded, match="reset_mask"):
        envs.step([WALK, WALK])
    observations, infos = envs.reset(options={"reset_mask": terminations})
    assert observations[0].startswith("Walk")
    assert observations[1] == "at 1 of 3", "no member moved in the step that was refused"
    assert data_equivalence(infos["_session_id"], flags(True, False))
    assert envs.step([WALK, WALK])[0][1] == "at 2 of 3"


def test_a_mask_resets_some_members(make_vec):
    envs = make_vec(3, autoreset_mode="Disabled")
    observations, _ = envs.reset(seed=[0, 1, 2])
    stepped = envs.step([WALK] * 3)[0]
    options = {"reset_mask": flags(True, True, False)}
    masked, _ = envs.reset(seed=[0, 1, 0], options=options)
    assert masked[:2] == observations[:2]
    assert masked[2] == stepped[2]
    assert list(options) == ["reset_mask"], "the caller's options are left alone"


@pytest.mark.parametrize(
    ("mask", "error", "says"),
    [
        ([True, False, True], TypeError, "must be a numpy array"),
        (flags(True), ValueError, r"must have shape `\(3,\)`, got \(1,\)"),
        (flags(True, True, False, False), ValueError, r"must have shape `\(3,\)`, got \(4,\)"),
        (np.array([[True, True, True]]), ValueError, r"must have shape `\(3,\)`, got \(1, 3\)"),
        (flags(False, False, False), ValueError, r"at least one True value, got reset_mask=\[False False False\]"),
        (np.array([1, 1, 0]), TypeError, "must have `dtype=np.bool_`, got int64"),
        (np.array([1.0, 1.0, 0.0]), TypeError, "must have `dtype=np.bool_`, got float64"),
    ],
)
def test_a_mask_of_another_form_is_refused(make_vec, mask, error, says):
    with pytest.raises(error, match=says):
        make_vec().reset(options={"reset_mask": mask})


def test_seeds_are_counted_up_and_kept(make_vec):
    envs = make_vec()
    first, _ = envs.reset(seed=42)
    assert envs.np_random_seed == (42, 43, 44)
    second, _ = envs.reset()
    assert envs.np_random_seed == (42, 43, 44)
    assert envs.reset(seed=[42, 43, 44])[0] == first
    assert envs.reset()[0] == second
    with pytest.raises(ValueError, match="2 seeds for num_envs=3"):
        envs.reset(seed=[1, 2])


def test_members_are_seeded_apart_before_any_reset(make_vec):
    envs = make_vec(8)
    assert len(set(envs.np_random_seed)) == 8
    assert all(isinstance(rng, np.random.Generator) for rng in envs.np_random)


@pytest.mark.parametrize(
    ("actions", "error", "says"),
    [
        ([WALK] * 2, ValueError, "2 actions for 3 members"),
        ([WALK] * 4, ValueError, "4 actions for 3 members"),
        (0, TypeError, "a sequence with one action per member, got int"),
        ("abc", TypeError, "got str"),
        ({"name": "walk", "input": {}, "x": 0}, TypeError, "got dict"),
        ([WALK, WALK, 3], TypeError, "an action must be a ToolCall"),
    ],
)
def test_the_number_of_actions_must_be_right(make_vec, actions, error, says):
    envs = make_vec()
    envs.reset(options={"task_index": 5})
    with pytest.raises(error, match=says):
        envs.step(actions)
    assert envs.step([WALK] * 3)[0] == ("at 1 of 7",) * 3, "no member moved"


def test_a_step_before_any_reset_is_refused(make_vec):
    with pytest.raises(ResetNeeded):
        make_vec().step([WALK] * 3)


def test_a_step_on_a_step_is_refused(make_vec):
    envs = make_vec()
    envs.reset(options={"task_index": 5})
    envs.send([WALK] * 3)
    with pytest.raises(AlreadyPendingCallError, match=r"members \[0, 1, 2\] have pending steps"):
        envs.step([WALK] * 3)
    with pytest.raises(AlreadyPendingCallError):
        envs.reset(options={"reset_mask": flags(True, False, False)})
    assert envs.recv(3)[0] == ("at 1 of 7",) * 3


def test_receiving_nothing_is_refused(make_vec):
    envs = make_vec()
    envs.reset()
    with pytest.raises(NoAsyncCallError, match="0 pending steps"):
        envs.recv()


def test_after_close_everything_is_refused(make_vec):
    envs = make_vec()
    envs.reset()
    envs.close()
    assert envs.closed
    envs.close()
    for use in (envs.reset, lambda: envs.step([WALK] * 3), lambda: envs.send([WALK] * 3)):
        with pytest.raises(ClosedEnvironmentError):
            use()


def test_render_gives_each_members_frame(make_vec):
    envs = make_vec(2, render_mode="ansi")
    envs.reset(options={"task_index": [0, 1]})
    assert [frame.splitlines()[1] for frame in envs.render()] == ["Walk 2 steps.", "Walk 3 steps."]
    envs = make_vec(2, render_mode="rgb_array")
    envs.reset()
    assert [frame.shape for frame in envs.render()] == [(2, 4, 3)] * 2


def test_infos_are_arrays_with_masks(make_vec):
    envs = make_vec(3)
    _, infos = envs.reset(options={"task_index": 2})
    assert [task.index for task in infos["task"]] == [2, 2, 2]
    *_, infos = envs.step([ToolCall("look"), WALK, ToolCall("quit")])
    assert infos["reward_given"].dtype == np.bool_
    assert list(infos["reward_given"]) == [True, False, False]
    assert list(infos["reason"]) == [None, None, "not_found"]
    assert data_equivalence(infos["_reason"], flags(False, False, True))
    assert infos["outputs"][0][0].metadata == {"place": 0}


def test_a_vector_wrapper_passes_everything_on(make_vec):
    envs = make_vec()
    wrapped = VectorWrapper(envs)
    assert wrapped.unwrapped is envs
    assert (wrapped.num_envs, wrapped.spec, wrapped.metadata) == (envs.num_envs, envs.spec, envs.metadata)
    assert (wrapped.action_space, wrapped.single_observation_space) == (
        envs.action_space,
        envs.single_observation_space,
    )
    wrapped.reset(options={"task_index": 5})
    assert wrapped.step([WALK] * 3)[0] == ("at 1 of 7",) * 3
    wrapped.close()
    assert envs.closed


def test_infos_can_be_turned_into_a_list(make_vec):
    envs = DictInfoToList(make_vec(2, autoreset_mode="SameStep"))
    _, infos = envs.reset(options={"task_index": [0, 1]})
    assert [info["task"].index for info in infos] == [0, 1]
    *_, infos = envs.step([RUN, WALK])
    assert infos[0]["final_obs"] == "at 3 of 2"
    assert infos[0]["final_info"]["stop_reason"] == "finished"
    assert "final_obs" not in infos[1]


def test_vector_wrappers_do_what_single_wrappers_do(make_vec):
    wrappers = [lambda env: gym.wrappers.TransformObservation(env, str.upper, TextSpace())]
    wrappers.append(lambda env: TransformReward(env, lambda reward: reward * 10))
    theirs = make_vec(2, vectorization_mode="sync", wrappers=wrappers)
    ours = TransformObservation(make_vec(2), lambda texts: tuple(text.upper() for text in texts))
    ours = VectorTransformReward(ours, lambda rewards: rewards * 10)
    ours = TransformAction(ours, lambda steps: [ToolCall("walk", {"steps": int(step)}) for step in steps])
    for envs, actions in ((ours, [1, 3]), (theirs, [WALK, RUN])):
        assert envs.reset(options={"task_index": 0})[0] == ("WALK 2 STEPS.",) * 2
        observations, rewards, *_ = envs.step(actions)
        assert observations == ("AT 1 OF 2", "AT 3 OF 2")
        assert list(rewards) == [0, 10]


@pytest.mark.parametrize(
    "mode",
    [
        AutoresetMode.NEXT_STEP,
        AutoresetMode.DISABLED,
        # Before Gymnasium 1.4 the wrapper leaves out the first reward of each episode but the first.
        pytest.param(AutoresetMode.SAME_STEP, marks=pytest.mark.needs("gymnasium>=1.4")),
    ],
)
def test_episode_statistics_are_right_in_every_autoreset_mode(make_vec, mode):
    envs = RecordEpisodeStatistics(make_vec(2, autoreset_mode=mode))
    envs.reset(options={"task_index": [0, 9]})
    envs.step([WALK, WALK])
    terminations, infos = (step := envs.step([WALK, WALK]))[2], step[4]
    assert list(infos["episode"]["r"]) == [1, 0]
    assert data_equivalence(infos["_episode"], flags(True, False))
    if mode is AutoresetMode.DISABLED:
        envs.reset(options={"reset_mask": terminations})
    for _ in range(6):  # enough for any of the tasks that may be drawn
        *_, terminations, _, infos = envs.step([RUN, WALK])
        if mode is AutoresetMode.DISABLED and terminations.any():
            envs.reset(options={"reset_mask": terminations})
    assert envs.episode_count == len(envs.return_queue) > 1
    assert set(envs.return_queue) == {1.0}


def test_rewards_can_be_normalized(make_vec):
    envs = NormalizeReward(make_vec(2))
    envs.reset(seed=0)
    assert all(np.isfinite(envs.step([RUN, RUN])[1]).all() for _ in range(8))
