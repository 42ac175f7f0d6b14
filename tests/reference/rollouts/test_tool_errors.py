"""A tool that raises is the agent's observation, as long as its session lives on and it is not every call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import pytest
from openreward.environments import ToolOutput, tool

from ors_gym import EpisodeRunner, ORSClient, ScriptedPolicy, StopReason, TaskRef, ToolCall, Trajectory
from ors_gym.errors import ToolFailedError
from ors_gym.policies.policy import Reply, Turn
from tests.support.environments import OneTask
from tests.support.ors_servers import RunningServer

TASK = TaskRef("counter", "train", 1)
"""Count to two."""
ADD, LOOK, CRASH = ToolCall("add", {"amount": 1}), ToolCall("look"), ToolCall("crash")


async def play(server: RunningServer, *moves: ToolCall | str, **options: Any) -> Trajectory:
    async with ORSClient(server.url) as client:
        return await EpisodeRunner(client, ScriptedPolicy(moves), **options).run_episode(TASK)


def reasons(trajectory: Trajectory) -> list[str | None]:
    return [transition.output.reason for transition in trajectory.transitions]


def test_an_error_of_a_tool_is_shown_to_the_agent_and_the_session_continues(
    counter_server: RunningServer, run: Callable
):
    trajectory = run(play(counter_server, ADD, CRASH, ADD))

    assert trajectory.stop_reason is StopReason.FINISHED
    assert trajectory.rewards == (None, None, 1.0)
    assert reasons(trajectory) == [None, "tool_error", None]
    assert trajectory.messages[4].blocks[0].blocks[0].text == "Error: the counter broke"
    assert trajectory.messages[4].blocks[0].is_error
    assert not counter_server.live_sessions


@pytest.mark.parametrize("parallel", [False, True])
def test_three_errors_in_a_row_fail_the_episode(counter_server: RunningServer, run: Callable, parallel: bool):
    trajectory = run(play(counter_server, *[CRASH] * 9, parallel_tool_calls=parallel))

    assert trajectory.failure is not None
    assert trajectory.failure.kind == "tool_failed"
    assert "the counter broke" in trajectory.failure.message
    assert reasons(trajectory) == ["tool_error"] * 2
    assert not counter_server.live_sessions


@pytest.mark.parametrize("parallel", [False, True])
def test_errors_of_one_message_count_as_one(counter_server: RunningServer, run: Callable, parallel: bool):
    class Stubborn:
        async def act(self, turn: Turn) -> Reply:
            return Reply(tool_calls=(CRASH, CRASH, CRASH))

    async def conversation() -> Trajectory:
        async with ORSClient(counter_server.url) as client:
            return await EpisodeRunner(client, Stubborn(), parallel_tool_calls=parallel).run_episode(TASK)

    trajectory = run(conversation())
    assert trajectory.failure is not None
    assert len(trajectory.exchanges) == 3
    assert reasons(trajectory)[:6] == ["tool_error"] * 6


@pytest.mark.parametrize("between", [LOOK, ToolCall("fly")], ids=["answered", "refused"])
def test_errors_with_another_call_between_them_do_not(counter_server: RunningServer, run: Callable, between: ToolCall):
    trajectory = run(play(counter_server, *[CRASH, CRASH, between] * 3, ADD, ADD))

    assert trajectory.stop_reason is StopReason.FINISHED
    assert reasons(trajectory).count("tool_error") == 6


def test_an_error_fails_the_episode_on_request(counter_server: RunningServer, run: Callable):
    trajectory = run(play(counter_server, CRASH, ADD, tool_errors="fail"))

    assert trajectory.failure is not None
    assert trajectory.failure.kind == "tool_failed"


def test_another_word_is_refused(counter_server: RunningServer, run: Callable):
    with pytest.raises(ValueError, match="'observe' or 'fail', not 'ignore'"):
        run(play(counter_server, ADD, tool_errors="ignore"))


def step_through(server: RunningServer, moves: Sequence[ToolCall], **options: Any) -> list[tuple[Any, ...]]:
    env = gym.make(
        "ors_gym/ORS-v0", url=server.url, env_name="counter", penalty=-1.0, disable_env_checker=True, **options
    )
    env.reset(options={"task_index": 1})
    try:
        return [env.step(move) for move in moves]
    finally:
        env.close()


def test_an_environment_shows_the_error_too_and_counts_it_as_no_mistake(counter_server: RunningServer):
    error, last = step_through(counter_server, [CRASH, ToolCall("add", {"amount": 2})])

    assert error[:4] == ("Error: the counter broke", 0.0, False, False)
    assert error[4]["reason"] == "tool_error"
    assert last[1:3] == (1.0, True)


def test_an_environment_raises_it_on_request(counter_server: RunningServer):
    with pytest.raises(ToolFailedError, match="the counter broke"):
        step_through(counter_server, [CRASH], tool_errors="fail")
    with pytest.raises(ToolFailedError, match="the counter broke"):
        step_through(counter_server, [CRASH] * 3)


class Vault(OneTask):
    """Raises with the secret it was given."""

    asks = "Open it."

    def __init__(self, task_spec={}, secrets={}):  # noqa: B006
        super().__init__(task_spec, secrets)
        self.key = secrets["KEY"]

    @tool
    def open(self) -> ToolOutput:
        """Log in."""
        raise RuntimeError(f"cannot log in with {self.key}")


def test_a_secret_in_the_error_is_not_shown_to_the_agent(start_server: Callable, run: Callable):
    async def episode() -> Trajectory:
        async with ORSClient(start_server(Vault).url) as client:
            runner = EpisodeRunner(client, ScriptedPolicy([ToolCall("open")]), secrets={"KEY": "open-sesame-42"})
            return await runner.run_episode(TaskRef("vault", "train", 0))

    (transition,) = run(episode()).transitions
    assert transition.output.text.startswith("Error: cannot log in with ")
    assert "sesame" not in transition.output.text
