"""What ORS offers, under a trainer: several environments, their messages, tools, terminal tools, scores and images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ors_gym import FailurePolicy, RolloutLimits, TaskRef, ToolCall
from ors_gym_trl import ImagesNotSupportedError, ORSRollouts, Source
from tests.support.environments import Counter, Essay, Mirror
from tests.support.ors_servers import RunningServer, serve
from tests.support.tiny import Buttons
from tests.support.trl_runs import AT_ONCE, FailingHost, closed_rollouts, make_trainer, one_thread, play
from tests.support.trl_says import Says
from tests.support.wrong_arguments import KEY, PASSWORD, SECRET, check_door

__all__ = ["one_thread", "play"]  # fixtures


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serve(Buttons, Counter, Mirror, Essay) as running:
        yield running


@pytest.fixture
def of(server: RunningServer) -> Iterator[Callable[..., ORSRollouts]]:
    """Rollouts of an environment of the server."""

    def make(env_name: str, *calls: ToolCall, text: str = "", max_turns: int = 2, **options: Any) -> ORSRollouts:
        if "host" not in options:
            options["limits"] = RolloutLimits(max_turns=max_turns)
        # One sampled token a turn is enough: what is read in it is decided here.
        options = {"max_turn_tokens": 1, "max_tasks": 4} | options
        return rollouts_of(env_name=env_name, parser=Says(*calls, text=text), **options)

    with closed_rollouts(server) as rollouts_of:
        yield make


LOOK = ToolCall("look")


def test_several_environments_are_trained_on_at_once_each_with_its_own_tools_rewards_and_limits(
    of: Callable, play: Callable
):
    with ORSRollouts.mix(
        of("buttons", LOOK, max_turns=3),
        of("counter", ToolCall("add", {"amount": 1}), tasks=[1], max_turns=9, reward="last"),
    ) as mixed:
        assert mixed.train_dataset.num_rows == 5
        columns, batch = play(mixed, 0, 4)

    assert [group.task.env_name for group in batch.groups] == ["buttons", "counter"]
    assert all('"press"' in text and '"add"' not in text for text in columns["prompt_text"][:4])
    assert all('"add"' in text and '"press"' not in text for text in columns["prompt_text"][4:])
    assert [member.num_turns for member in batch.trajectories] == [3] * 4 + [2] * 4
    assert columns["ors_return"] == [0.0] * 4 + [1.0] * 4


def test_environments_of_one_name_need_names_of_their_own(of: Callable):
    with pytest.raises(ValueError, match="name="):
        ORSRollouts.mix(of("buttons"), of("buttons"))

    with ORSRollouts.mix(of("buttons"), of("buttons", name="more buttons")) as mixed:
        assert mixed.train_dataset.num_rows == 8


def test_options_with_several_sources_and_a_source_without_a_name_are_refused():
    with pytest.raises(ValueError, match=r"one or more Source"):
        ORSRollouts(Source("http://127.0.0.1:1", env_name="one"), max_tasks=4)
    with pytest.raises(ValueError, match="env_name"):
        ORSRollouts("http://127.0.0.1:1")
    with pytest.raises(ValueError, match="max_task"):
        ORSRollouts("http://127.0.0.1:1", env_name="one", max_task=4)


@pytest.mark.parametrize("option", ["limits", "secrets", "toolset", "tools", "parallel_tool_calls"])
def test_options_of_a_host_are_refused_with_one(option: str):
    with pytest.raises(ValueError, match=f"{option} belong"):
        Source("http://127.0.0.1:1", env_name="one", host=object(), **{option: {"a": "b"}})


def test_a_task_of_another_environment_is_refused_with_the_names_there_are(of: Callable, tmp_path: Path):
    buttons, counter = of("buttons"), of("counter")
    trainer = make_trainer(buttons, tmp_path)

    with pytest.raises(ValueError, match=r"'counter' reached rollouts of 'buttons'"):
        buttons.rollout_func([counter.train_dataset[0]["prompt"]], trainer)


def test_the_environments_messages_and_a_sessions_own_tools_reach_the_model(of: Callable, play: Callable):
    columns, _ = play(of("mirror", text="the end"), 0)

    for text in columns["prompt_text"]:
        assert "system\nrules<|im_end|>" in text
        assert "user\ntask<|im_end|>" in text
        assert '"task_only"' in text
        assert '"submit"' not in text  # the terminal tool is the plain message's


@pytest.mark.parametrize("env_name", ["mirror", "essay"])
def test_a_plain_message_goes_to_the_terminal_tool_and_is_paid_there(of: Callable, play: Callable, env_name: str):
    columns, batch = play(of(env_name, text="the end"), 0)

    assert columns["ors_return"] == [1.0] * 4
    assert all(member.terminated for member in batch.trajectories)


def test_an_episode_without_rewards_is_worth_zero_unless_it_is_left_out(of: Callable, play: Callable):
    echo = ToolCall("echo", {"text": "hello"})

    assert play(of("counter", echo), 0)[0]["ors_return"] == [0.0] * 4
    assert play(of("counter", echo, unrewarded_return=None), 0)[0]["ors_return"] == [None] * 4


def test_the_agents_mistakes_are_observations(of: Callable, play: Callable):
    mistakes = ToolCall("subtract"), ToolCall("add", {"amount": "many"})
    columns, batch = play(of("counter", *mistakes, truncated_reward=0.0), 0)

    assert not any(member.failed for member in batch.trajectories)
    for member, text in zip(batch.trajectories, columns["completion_text"], strict=True):
        assert [step.output.ok for step in member.transitions[:2]] == [False, False]
        assert all(step.output.text in text for step in member.transitions[:2])


def test_parallel_calls_are_answered_in_order(of: Callable, play: Callable):
    calls = [ToolCall("echo", {"text": word}) for word in ("first", "second")]
    columns, _ = play(of("counter", *calls, truncated_reward=0.0), 0)

    for text in columns["completion_text"]:
        assert text.index("first") < text.index("second")


def test_nothing_after_finished_is_called_or_trained_on(of: Callable, play: Callable):
    calls = [ToolCall("add", {"amount": 1}), ToolCall("add", {"amount": 1})]
    columns, batch = play(of("counter", *calls, tasks=[0], max_turns=5), 0)

    assert all(len(member.transitions) == 1 for member in batch.trajectories)
    assert columns["ors_return"] == [1.0] * 4
    assert all(mask[-1] == 1 for mask in columns["env_mask"])


def test_the_scores_of_a_group_are_a_second_reward(of: Callable, play: Callable):
    rollouts = of("mirror", text="the end", score_group=True)
    assert [reward.__name__ for reward in rollouts.reward_funcs] == ["ors_return", "ors_score"]

    columns, batch = play(rollouts, 0)

    assert columns["ors_return"] == [1.0] * 4
    assert columns["ors_score"] == list(batch.groups[0].scores)
    assert all(score is not None for score in columns["ors_score"])
    assert rollouts.ors_score(columns["ors_score"]) == columns["ors_score"]


def test_scores_are_not_requested_by_default(of: Callable, play: Callable):
    rollouts = of("mirror", text="the end")

    columns, _ = play(rollouts, 0)

    assert len(rollouts.reward_funcs) == 1
    assert columns["ors_score"] == [None] * 4


def test_an_image_is_refused_rather_than_left_out(of: Callable, play: Callable):
    with pytest.raises(ImagesNotSupportedError, match="sent an image"):
        play(of("counter", LOOK), 4 - 1)


def test_a_task_whose_image_the_model_cannot_see_can_be_skipped(of: Callable, play: Callable):
    columns, batch = play(of("counter", LOOK, unseen_images="skip"), 3)

    assert columns["ors_return"] == [None] * 4
    assert [sum(mask) for mask in columns["env_mask"]] == [0] * 4
    assert batch.groups[0].dropped
    assert [failure.kind for failure in batch.groups[0].failures] == ["unseen_image"] * 4


def test_an_image_can_be_described_as_text(of: Callable, play: Callable):
    columns, _ = play(of("counter", LOOK, unseen_images="describe"), 3)

    assert all("[an image (image/png), which cannot be shown]" in text for text in columns["completion_text"])


def test_a_dropped_groups_place_is_taken_by_another_task(of: Callable, play: Callable, server: RunningServer):
    host = FailingHost(server, tasks={0})
    failures = FailurePolicy(retries=0, incomplete="refill", refills=3)
    rollouts = of("buttons", LOOK, host=host, failures=failures, tasks=[0, 1, 2])

    columns, batch = play(rollouts, 0)

    assert batch.groups[0].refilled_for == TaskRef("buttons", "train", 0)
    assert batch.groups[0].task.index != 0
    assert batch.replaced_groups[0].dropped
    assert columns["ors_return"] == [0.0] * 4
    assert rollouts._metrics["rollout/refilled_groups"] == 1
    assert rollouts._metrics["rollout/dropped_groups"] >= 1
    rollouts.portal.run(host.client.aclose())


def test_groups_of_one_task_that_follow_each_other_stay_apart(of: Callable, play: Callable):
    _, batch = play(of("buttons", LOOK, failures=AT_ONCE), 0, 0)

    assert [len(group.members) for group in batch.groups] == [4, 4]


def test_wrong_fields_of_a_source_are_refused_without_keys():
    base = {
        "url": f"http://user:{PASSWORD}@127.0.0.1:9",
        "env_name": "e",
        "client_options": {"api_key": KEY},
        "secrets": {"A": SECRET},
    }
    fits = dict.fromkeys(
        ("env_name", "api_key", "name", "split", "eval_split", "parser", "system", "toolset", "reward"), (str,)
    )
    fits |= dict.fromkeys(("truncated_reward", "stopped_reward", "unrewarded_return"), (float,))
    fits |= dict.fromkeys(("tasks", "parallel_tool_calls"), (list,))
    fits |= dict.fromkeys(("template_options", "client_options"), (dict,))

    def door(url, **options):
        return ORSRollouts(url, **options)

    names = [field.name for field in dataclasses.fields(Source)]
    assert check_door(door, base, (*names, "max_failed_batches"), fits) > 100
