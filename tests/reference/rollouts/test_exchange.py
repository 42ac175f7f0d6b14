"""One episode is the same episode, with either player: ``gym.make`` and the runner agree on every exchange."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest
from openreward.environments import TextBlock as SDKTextBlock
from openreward.environments import ToolOutput, terminal, tool
from pydantic import BaseModel, Field

from ors_gym import EpisodeRunner, ORSClient, Reply, RolloutLimits, StopReason, TaskRef, ToolCall, Trajectory, Turn
from ors_gym.types import Message, TextBlock
from tests.support.environments import OneTask
from tests.support.ors_servers import RunningServer


class Essay(BaseModel):
    text: str = Field(min_length=10)


class Writing(OneTask):
    """Hand in an essay of at least ten letters."""

    asks = "Write."

    @terminal
    @tool
    def hand_in(self, essay: Essay) -> ToolOutput:
        """Grade the essay; says no ``finished``."""
        return ToolOutput(blocks=[SDKTextBlock(text="graded")], reward=1.0)

    @tool
    def look(self) -> ToolOutput:
        """Look at the paper."""
        return ToolOutput(blocks=[SDKTextBlock(text="empty")], reward=0.0)


TASK = TaskRef("writing", "train", 0)
Move = str | tuple[ToolCall, ...]


class Says:
    def __init__(self, *moves: Move) -> None:
        self.moves = moves

    async def act(self, turn: Turn) -> Reply:
        move = self.moves[turn.number]
        return Reply(move) if isinstance(move, str) else Reply(tool_calls=move)


@pytest.fixture
def writing(start_server: Callable) -> RunningServer:
    return start_server(Writing)


async def run_episode(server: RunningServer, *moves: Move) -> Trajectory:
    async with ORSClient(server.url) as client:
        limits = RolloutLimits(max_turns=len(moves))
        return await EpisodeRunner(client, Says(*moves), limits=limits).run_episode(TASK)


def step_through(server: RunningServer, *moves: str) -> list[tuple[Any, float, bool, bool, dict[str, Any]]]:
    env = gym.make(
        "ors_gym/ORS-v0",
        url=server.url,
        env_name="writing",
        observation_mode="messages",
        max_turns=len(moves),
        disable_env_checker=True,
    )
    env.reset()
    steps = [env.step(move) for move in moves]
    env.close()
    return steps


def hermes(*calls: ToolCall) -> str:
    return "".join(
        f"<tool_call>{json.dumps({'name': call.name, 'arguments': dict(call.input)})}</tool_call>" for call in calls
    )


def test_a_terminal_tool_that_refuses_its_input_does_not_end_the_episode(writing: RunningServer, run: Callable):
    words = "too short", "long enough, at last"

    trajectory = run(run_episode(writing, *words))
    first, last = step_through(writing, *words)

    assert trajectory.stop_reason is StopReason.FINISHED
    assert trajectory.rewards == (None, 1.0)
    assert [step.output.reason for step in trajectory.transitions] == ["input_validation", None]
    assert (first[2:4], first[4]["reason"]) == ((False, False), "input_validation")
    assert (last[1], last[2], last[4]["stop_reason"]) == (1.0, True, "finished")
    refusal = trajectory.messages[2]
    assert (refusal.role, "at least 10" in refusal.text) == ("user", True)


@pytest.mark.parametrize(
    "moves",
    [
        ("too short", "long enough, at last"),
        ((ToolCall("look"), ToolCall("look")), (ToolCall("fly"), ToolCall("look"))),
        ((ToolCall("look"), ToolCall("hand_in", {"text": "by its own name"}), ToolCall("look")),),
    ],
    ids=["plain messages", "several calls", "the terminal tool by its name"],
)
def test_an_environment_and_a_runner_have_the_same_conversation(
    writing: RunningServer, run: Callable, moves: tuple[Move, ...]
):
    trajectory = run(run_episode(writing, *moves))
    *_, last = step_through(writing, *(move if isinstance(move, str) else hermes(*move) for move in moves))

    assert last[0] == trajectory.messages
    assert (last[2], last[3]) == (trajectory.terminated, trajectory.truncated)


def test_a_call_keeps_the_id_that_its_provider_gave(writing: RunningServer, run: Callable):
    calls = ToolCall("look", id="x9AB"), ToolCall("look"), ToolCall("look", id="x9AB")

    said, heard = run(run_episode(writing, calls)).completion

    ids = [call.id for call in said.tool_calls]
    assert ids[0] == "x9AB"
    assert len(set(ids)) == 3, "each result belongs to one call"
    assert [result.tool_call_id for result in heard.blocks] == ids


def test_what_the_agent_reads_when_its_time_is_over_is_in_the_conversation(start_server: Callable):
    env = gym.make(
        "ors_gym/ORS-v0",
        url=start_server(Writing).url,
        env_name="writing",
        observation_mode="messages",
        max_episode_seconds=1e-6,
        disable_env_checker=True,
    )
    env.reset()
    observation, _, _, truncated, info = env.step(ToolCall("look"))
    env.close()

    assert (truncated, info["outputs"]) == (True, ())
    assert observation[-1] == Message("user", (TextBlock("The episode's time is over."),))
    assert observation[-2].tool_calls[0].name == "look"
