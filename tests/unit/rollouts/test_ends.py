"""How an episode ends, whatever a server answers: what the agent wrote never fails it, what breaks it is no zero."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ors_gym.client.client import ORSClient
from ors_gym.policies.policy import ScriptedPolicy
from ors_gym.rollouts.episode import EpisodeRunner, RolloutLimits
from ors_gym.trajectory import StopReason, TaskRef, Trajectory
from ors_gym.types import ToolCall
from tests.support.scripted_server import ScriptedORS, events, http, json_answer

ACT = ToolCall("act", {"text": "x"})
GONE = json_answer({"detail": "no such session"}, status="404 Not Found")
PAGE = http(b"<html><head><title>413 Request Entity Too Large</title></head></html>", "text/html", status="413 Large")


def play(answers: dict[str, Any], call: ToolCall = ACT, turns: int = 1, seconds: float | None = None) -> Trajectory:
    async def episode() -> Trajectory:
        async with ScriptedORS(answers) as server, ORSClient(server.url) as client:
            runner = EpisodeRunner(client, ScriptedPolicy([call] * turns), limits=RolloutLimits(turns, seconds))
            return await runner.run_episode(TaskRef("bad", "train", 0))

    return asyncio.run(asyncio.wait_for(episode(), 60))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (json_answer({"detail": "nested too deeply"}, status="422 Unprocessable"), ": nested too deeply"),
        (json_answer({"detail": "a NUL in the text"}, status="400 Bad Request"), ": a NUL in the text"),
        (PAGE, ": a page titled '413 Request Entity Too Large'"),
    ],
)
def test_an_input_that_the_server_does_not_take_is_an_observation(answer: bytes, says: str):
    trajectory = play({"call": answer}, turns=2)

    assert trajectory.stop_reason is StopReason.MAX_TURNS
    assert [step.output.reason for step in trajectory.transitions] == ["input_validation"] * 2
    assert says in trajectory.transitions[0].output.text


@pytest.mark.parametrize(
    "call",
    [
        json_answer({"detail": "no session"}, status="400 Bad Request"),
        events(("task_id", "t1"), ("error", "the session fell over")),
    ],
    ids=["refused", "raised"],
)
def test_a_lost_session_fails_the_episode_whatever_its_last_answer(call: bytes):
    trajectory = play({"call": call, "ping": GONE, "prompt": GONE})

    assert trajectory.failure is not None
    assert trajectory.failure.kind == "session_lost"


def test_a_tool_that_raises_is_an_observation():
    trajectory = play({"call": events(("task_id", "t1"), ("error", "no such file"))}, turns=2)

    assert trajectory.stop_reason is StopReason.MAX_TURNS
    assert [step.output.text for step in trajectory.transitions] == ["Error: no such file"] * 2


def test_an_episode_that_never_began_has_failed_and_was_not_cut_short():
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    trajectory = play({"messages": silent}, seconds=0.5)

    assert trajectory.failure is not None
    assert trajectory.failure.kind == "timeout"
    assert "max_episode_seconds=0.5" in trajectory.failure.message


def test_a_server_that_says_that_the_episode_is_over_has_ended_it():
    over = {"ok": False, "error": "The episode is over.", "reason": "episode_finished"}

    trajectory = play({"call": events(("task_id", "t1"), ("end", json.dumps(over)))}, turns=5)

    assert (trajectory.stop_reason, trajectory.num_turns) == (StopReason.FINISHED, 1)
