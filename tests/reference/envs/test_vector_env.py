"""What ORSVectorEnv does beyond Gymnasium's own: all at once, groups, failures of single members, no barrier."""

from __future__ import annotations

import gc
import math
import threading

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from ors_gym.envs.vector_env import ORSVectorEnv
from ors_gym.errors import ORSError
from ors_gym.trajectory import Failure
from ors_gym.types import ToolCall
from tests.support.gym_environments import Faulty, Kitchen, Meeting, Walk
from tests.support.ors_servers import serve

WALK = ToolCall("walk", {"steps": 1})
RUN = ToolCall("walk", {"steps": 3})
ACT = ToolCall("act")
SOUND, BREAKS_AT_ONCE, BREAKS_LATER, NEVER_STARTS = range(4)


@pytest.fixture(scope="module")
def server():
    with serve(Walk, Faulty, Meeting, Kitchen) as running:
        yield running


@pytest.fixture
def make_vec(server):
    made = []

    def make_vec(num_envs, env_name, **options):
        options = {"tool_errors": "fail"} | options
        made.append(gym.make_vec("ors_gym/ORS-v0", num_envs=num_envs, url=server.url, env_name=env_name, **options))
        return made[-1]

    Faulty.setups.clear()
    Faulty.fails_left.clear()
    yield make_vec
    for envs in made:
        envs.close()
    assert server.live_sessions == {}, "every session that was opened is closed"


class TestAtOnce:
    """The environment's calls wait for one another: one after another they would never come back."""

    def test_all_members_reset_and_step_at_the_same_time(self, make_vec):
        envs = make_vec(4, "meeting")
        assert envs.reset(options={"task_index": 0})[0] == ("Met.",) * 4
        for _ in range(2):
            observations, rewards, *_ = envs.step([ToolCall("gather")] * 4)
            assert observations == ("met",) * 4
            assert list(rewards) == [1] * 4

    def test_there_may_be_256_of_them(self, make_vec):
        envs = make_vec(256, "meeting")
        assert envs.reset(options={"task_index": 1})[0] == ("Met.",) * 256
        assert envs.step([ToolCall("gather")] * 256)[0] == ("met",) * 256


class TestGroups:
    def test_the_members_of_a_group_play_the_same_tasks_in_the_same_order(self, make_vec):
        envs = make_vec(6, "walk", group_size=3)
        envs.reset(seed=5)
        played = [[task.index] for task in envs.tasks]
        for number in range(60):
            # Members walk at different paces, so their episodes end at different times.
            *_, infos = envs.step([ToolCall("walk", {"steps": 1 + (i + number) % 3}) for i in range(6)])
            for i in np.flatnonzero(infos.get("_task", [])):
                played[i].append(infos["task"][i].index)
        for group in (played[:3], played[3:]):
            shortest = min(map(len, group))
            assert shortest > 5
            assert group[0][:shortest] == group[1][:shortest] == group[2][:shortest]
        assert played[0][:5] != played[3][:5]

    def test_the_seed_of_the_first_member_counts(self, make_vec):
        envs = make_vec(4, "walk", group_size=2)
        envs.reset(seed=[1, 2, 3, 4])
        first = envs.tasks
        envs.reset(seed=[1, 0, 3, 0])
        assert envs.tasks == first
        assert envs.np_random_seed == (1, 1, 3, 3)

    def test_each_member_may_be_given_a_task(self, make_vec):
        envs = make_vec(4, "walk")
        assert envs.reset(options={"task_index": [0, 0, 1, 1]})[0] == ("Walk 2 steps.",) * 2 + ("Walk 3 steps.",) * 2
        assert envs.reset(options={"task": {"goal": 99}})[0] == ("Walk 99 steps.",) * 4
        with pytest.raises(ValueError, match="2 task indices for 4 members"):
            envs.reset(options={"task_index": [0, 1]})
        with pytest.raises(ValueError, match="no task 10"):
            envs.reset(options={"task_index": [0, 1, 2, 10]})


class TestFailures:
    def test_a_fault_fails_one_member_only(self, make_vec):
        envs = make_vec(3, "faulty", restarts=1)
        envs.reset(options={"task_index": [SOUND, BREAKS_LATER, SOUND]})
        envs.step([ACT] * 3)
        observations, rewards, terminations, truncations, infos = envs.step([ACT] * 3)
        assert observations == ("act 2", "act 1", "act 2"), "the failed member shows its last observation again"
        assert rewards[[0, 2]].tolist() == [1, 1]
        assert math.isnan(rewards[1])
        assert terminations.tolist() == [False, False, False]
        assert truncations.tolist() == [False, True, False]
        assert infos["failure"].tolist() == [None, Failure("tool_failed", infos["failure"][1].message), None]
        assert "something broke" in infos["failure"][1].message
        assert infos["stop_reason"][1] == "failed"
        observations, rewards, _, truncations, infos = envs.step([ACT] * 3)
        assert observations == ("act 3", "breaks later", "act 3"), "the same task again, on a fresh session"
        assert rewards.tolist() == [1, 0, 1]
        assert "failure" not in infos

    def test_a_task_is_begun_again_within_the_budget_and_then_left(self, make_vec):
        envs = make_vec(1, "faulty", restarts=2)
        envs.reset(seed=0, options={"task_index": BREAKS_AT_ONCE})
        failures = 0
        while envs.tasks[0].index == BREAKS_AT_ONCE and failures < 9:
            _, rewards, *_ = envs.step([ACT])
            failures += int(math.isnan(rewards[0]))
            envs.step([ACT])
        assert failures == 3, "once, and two restarts"
        assert Faulty.setups[:3] == ["breaks at once"] * 3

    def test_a_restart_that_succeeds_plays_the_task_to_its_end(self, make_vec):
        Faulty.fails_left["breaks later"] = 1
        envs = make_vec(1, "faulty")
        envs.reset(options={"task_index": BREAKS_LATER})
        envs.step([ACT])
        assert math.isnan(envs.step([ACT])[1][0])
        envs.step([ACT])
        assert [envs.step([ACT])[1][0] for _ in range(3)] == [1, 1, 1]
        assert Faulty.setups == ["breaks later"] * 2

    def test_in_the_same_step_the_failure_is_next_to_the_next_episode(self, make_vec):
        Faulty.fails_left["breaks at once"] = 1
        envs = make_vec(2, "faulty", autoreset_mode="SameStep")
        envs.reset(options={"task_index": [SOUND, BREAKS_AT_ONCE]})
        observations, rewards, _, truncations, infos = envs.step([ACT] * 2)
        assert observations == ("act 1", "breaks at once")
        assert infos["final_obs"][1] == "breaks at once"
        assert infos["final_info"]["failure"][1] == infos["failure"][1] != None  # noqa: E711
        assert truncations.tolist() == [False, True]
        assert math.isnan(rewards[1])
        assert envs.step([ACT] * 2)[1].tolist() == [1, 1]

    def test_without_autoreset_a_masked_reset_begins_the_failed_task_again(self, make_vec):
        envs = make_vec(2, "faulty", autoreset_mode="Disabled", restarts=1)
        envs.reset(seed=0, options={"task_index": [SOUND, BREAKS_AT_ONCE]})
        for expected in ("breaks at once", None):
            truncations = envs.step([ACT] * 2)[3]
            assert truncations.tolist() == [False, True]
            observations, _ = envs.reset(options={"reset_mask": truncations})
            assert expected is None or observations[1] == expected
        assert Faulty.setups.count("breaks at once") == 2 + (envs.tasks[1].index == BREAKS_AT_ONCE)

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_a_member_that_cannot_start_reports_it_and_tries_the_next_task_in_its_next_step(self, make_vec, mode):
        Faulty.fails_left["never starts"] = 3
        envs = make_vec(2, "faulty", restarts=2, autoreset_mode=mode)
        observations, infos = envs.reset(seed=0, options={"task_index": [SOUND, NEVER_STARTS]})
        assert observations == ("sound", "")
        assert infos["failure"][0] is None
        assert "no prompt today" in infos["failure"][1].message
        assert Faulty.setups.count("never starts") == 3
        observations, rewards, _, truncations, infos = envs.step([ACT] * 2)
        assert observations[0] == "act 1"
        assert observations[1] != ""
        assert (rewards.tolist(), truncations.tolist()) == ([1, 0], [False, False])

    def test_the_error_is_raised_when_no_member_can_begin(self, make_vec):
        envs = make_vec(2, "faulty")
        with pytest.raises(ORSError, match="no prompt today"):
            envs.reset(options={"task_index": NEVER_STARTS})
        assert envs.reset(options={"task_index": SOUND})[0] == ("sound",) * 2

    def test_one_broken_task_does_not_stop_a_small_vector(self, make_vec):
        envs = make_vec(1, "faulty", split="partly broken")
        envs.reset(seed=1, options={"task_index": 1})
        missed = 0
        for _ in range(40):
            *_, infos = envs.step([ACT])
            missed += "failure" in infos
        assert 0 < missed < 40

    def test_a_server_that_stays_away_is_raised_at_last(self):
        with serve(Walk) as running:
            envs = gym.make_vec("ors_gym/ORS-v0", num_envs=2, url=running.url, env_name="walk", restarts=1)
            envs.reset(options={"task_index": 9})
        for _ in ("the calls fail", "the tasks cannot be begun again"):
            _, rewards, _, truncations, infos = envs.step([WALK] * 2)
            assert np.isnan(rewards).all()
            assert truncations.all()
            assert {failure.kind for failure in infos["failure"]} == {"connect"}
        with pytest.raises(ORSError):
            envs.step([WALK] * 2)
        envs.close()

    def test_a_failed_episode_spoils_no_other_episodes_statistics(self, make_vec):
        Faulty.fails_left["breaks later"] = 1
        envs = RecordEpisodeStatistics(make_vec(1, "faulty"))
        envs.reset(options={"task_index": BREAKS_LATER})
        for _ in range(6):
            envs.step([ACT])
        returns = list(envs.return_queue)
        assert math.isnan(returns[0])
        assert returns[1:] == [3.0]


class TestWithoutBarrier:
    def test_a_slow_member_delays_itself_only(self, make_vec):
        envs = make_vec(3, "kitchen")
        envs.reset()
        envs.send([ToolCall("bake"), ToolCall("stir"), ToolCall("stir")])
        steps = {1: 0, 2: 0}
        while min(steps.values()) < 3:
            observations, rewards, terminations, truncations, infos = envs.recv()
            members = infos["env_id"]
            assert 0 not in members
            assert len(observations) == len(rewards) == len(terminations) == len(truncations) == len(members)
            assert len(infos["reward_given"]) == len(members)
            for i in members:
                steps[int(i)] += 1
            envs.send([ToolCall("stir")] * len(members), env_ids=members)
        envs.recv(len(envs.pending) - 1)
        assert envs.pending == (0,)
        envs.send([ToolCall("ring")], env_ids=[1])
        observations, rewards, terminations, _, infos = envs.recv(2)
        baked = list(infos["env_id"]).index(0)
        assert (observations[baked], rewards[baked], terminations[baked]) == ("baked", 2.0, True)
        assert envs.pending == ()

    def test_an_episode_that_ended_begins_anew_with_the_next_send(self, make_vec):
        envs = make_vec(2, "walk")
        envs.reset(options={"task_index": 0})
        envs.send([RUN], env_ids=[1])
        assert envs.recv()[2].tolist() == [True]
        envs.send([RUN], env_ids=np.array([1]))
        observations, rewards, terminations, _, infos = envs.recv()
        assert observations[0].startswith("Walk")
        assert (rewards[0], terminations[0], infos["env_id"].tolist()) == (0, False, [1])
        envs.send([WALK, WALK], env_ids=[1, 0])
        assert sorted(envs.recv(2)[4]["env_id"]) == [0, 1]

    @pytest.mark.parametrize("env_ids", [[0, 0], [2, 0], [-1, 0]])
    def test_unknown_members_are_refused(self, make_vec, env_ids):
        envs = make_vec(2, "walk")
        envs.reset()
        with pytest.raises(ValueError, match="different members of 0 to 1"):
            envs.send([WALK, WALK], env_ids=env_ids)
        assert envs.pending == ()

    def test_a_reset_abandons_what_is_under_way(self, make_vec):
        envs = make_vec(2, "faulty", split="stuck")
        envs.reset(options={"task_index": [0, 1]})
        envs.send([ACT] * 2)
        assert envs.recv()[4]["env_id"].tolist() == [1]
        assert envs.reset(options={"task_index": 1})[0] == ("sound",) * 2
        assert envs.pending == ()
        assert envs.step([ACT] * 2)[0] == ("act 1",) * 2

    def test_closing_abandons_what_is_under_way(self, make_vec, server):
        envs = make_vec(2, "faulty", split="stuck")
        envs.reset(options={"task_index": [0, 1]})
        envs.send([ACT] * 2)
        envs.close()
        assert server.live_sessions == {}

    def test_an_interrupt_leaves_the_steps_under_way_to_be_abandoned_by_a_reset(self, make_vec, server):
        envs = make_vec(2, "kitchen")
        envs.reset()
        with pytest.raises(KeyboardInterrupt):
            envs.step([ToolCall("bake"), ToolCall("press_ctrl_c")])
        assert envs.pending == (0, 1)
        envs.reset()
        assert envs.step([ToolCall("stir")] * 2)[0] == ("stirred",) * 2

    @pytest.mark.parametrize("wait", ["step", "recv"])
    def test_results_from_before_an_interrupt_are_returned_afterwards(self, make_vec, monkeypatch, wait):
        envs = make_vec(3, "kitchen")
        envs.reset()
        actions = [ToolCall("stir"), ToolCall("bake"), ToolCall("stir")]

        class InterruptedWhenTwoHaveLanded(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                while len(envs._landed) < 2:
                    super().wait(timeout)
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(envs, "_landing", InterruptedWhenTwoHaveLanded())
            if wait == "recv":
                envs.send(actions)
            with pytest.raises(KeyboardInterrupt):
                envs.step(actions) if wait == "step" else envs.recv(3)
        assert envs.pending == (0, 1, 2)
        observations, rewards, *_, infos = envs.recv(2)
        assert sorted(infos["env_id"]) == [0, 2]
        assert (observations, list(rewards)) == (("stirred",) * 2, [1.0] * 2)
        assert envs.pending == (1,)

    def test_an_interrupt_before_the_steps_begin_leaves_nothing_under_way(self, make_vec, monkeypatch):
        envs = make_vec(2, "walk")
        envs.reset(options={"task_index": 1})

        def interrupted(work) -> None:
            work.close()
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(envs._portal, "run", interrupted)
            with pytest.raises(KeyboardInterrupt):
                envs.step([WALK] * 2)
        assert envs.pending == ()
        assert len(envs.step([WALK] * 2)[0]) == 2

    def test_a_vector_that_is_forgotten_closes_its_sessions(self, server):
        envs = ORSVectorEnv(3, server.url, "walk")
        envs.reset()
        portal, episodes = envs._portal, [member.episode for member in envs._members]
        del envs
        gc.collect()
        for episode in episodes:
            portal.run(episode.close())  # already under way; this waits for it
        assert server.live_sessions == {}


def test_secrets_are_shown_nowhere(make_vec):
    envs = make_vec(1, "walk", api_key="k-3141", secrets={"TOKEN": "t-2718"})
    assert not any(secret in repr(envs) + repr(envs.spec) for secret in ("k-3141", "t-2718"))
    again = gym.make_vec(envs.spec)
    assert again.recipe.session_options["secrets"] == {"TOKEN": "t-2718"}  # type: ignore[attr-defined]
    again.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"restarts": -1}, "restarts"),
        ({"autoreset_mode": "Never"}, "'Never' is not a valid AutoresetMode"),
        ({"split": "nowhere"}, "'walk' has no split 'nowhere'; it has 'exam', 'practice', 'none'"),
        ({"groupsize": 2}, "unknown option groupsize"),
    ],
)
def test_unknown_options_are_refused(server, options, says):
    with pytest.raises(ValueError, match=says):
        ORSVectorEnv(2, server.url, "walk", **options)


def test_a_limit_of_steps_may_be_given_by_gymnasiums_name(make_vec):
    envs = make_vec(2, "walk", max_episode_steps=2, max_turns=3)
    envs.reset(options={"task_index": 9})
    assert list(envs.step([WALK] * 2)[3]) == [False, False]
    assert list(envs.step([WALK] * 2)[3]) == [True, True]


def test_members_must_make_whole_groups(server):
    with pytest.raises(ValueError, match="num_envs=5 must be a multiple of group_size=2"):
        ORSVectorEnv(5, server.url, "walk", group_size=2)
    with pytest.raises(ValueError, match="num_envs=0"):
        ORSVectorEnv(0, server.url, "walk")
