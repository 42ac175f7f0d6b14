"""Episodes of a real server, written as they finish and read as a dataset."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ors_gym import EpisodeRunner, ORSClient, ScriptedPolicy, ToolCall, run_groups, trajectory_return
from ors_gym.reporting.dataset import to_dataset
from ors_gym.reporting.records import (
    TrajectoryWriter,
    read_groups,
)
from ors_gym.trajectory import Failure, StopReason, TaskRef, Trajectory, TrajectoryGroup
from tests.support.ors_servers import RunningServer

TASK = TaskRef("counter", "train", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "run.jsonl"


async def play(server: RunningServer, path: Path, moves: list[ToolCall | str], size: int = 2) -> list[TrajectoryGroup]:
    played = []
    async with ORSClient(server.url) as client:
        runner = EpisodeRunner(client, ScriptedPolicy(moves))
        with TrajectoryWriter(path) as writer:
            async for each in run_groups(runner, [TaskRef("counter", "train", 1), TASK], size):
                writer.write_group(each)
                played.append(each)
                assert list(read_groups(path)) == played  # written as they finish
    return played


def test_episodes_of_a_real_environment_are_written_as_they_finish(
    counter_server: RunningServer, run: Callable, path: Path
):
    moves = [ToolCall("look"), ToolCall("fly"), *[ToolCall("add", {"amount": 1})] * 2]
    played = run(play(counter_server, path, moves))

    assert len(played) == 2
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 4
    assert all((line["format"], line["version"]) == ("ors-gym/trajectory", 2) for line in lines)
    assert [line["return"] for line in lines] == [1.0] * 4
    look, fly = (call for exchange in lines[0]["exchanges"][:2] for call in exchange["calls"])
    assert (look["id"], look["name"], look["input"]) == ("call_0_0", "look", {})
    assert path.read_text().count('"type": "image"') == 4, "a picture stands once"
    assert (fly["output"]["ok"], fly["output"]["reason"]) == (False, "not_found")


def test_a_file_becomes_a_dataset(counter_server: RunningServer, run: Callable, path: Path):
    moves = [ToolCall("look"), *[ToolCall("add", {"amount": 1})] * 2]
    played = run(play(counter_server, path, moves))
    failed = Trajectory(
        "f", TaskRef("counter", task={"target": 1}), StopReason.FAILED, failure=Failure("connect", "no")
    )
    with TrajectoryWriter(path) as writer:
        writer.write_group(TrajectoryGroup(failed.task, (failed,), dropped=True))

    dataset = to_dataset(path)

    assert len(dataset) == 5
    assert set(dataset["return"]) == {1.0, None}
    row = next(row for row in dataset if row["index"] == 1)
    assert row["rewards"] == [0.0, None, 1.0]
    assert [message["role"] for message in row["messages"]] == [
        "user",
        "assistant",
        "tool",
        "user",
        *["assistant", "tool"] * 2,
    ]
    call = row["messages"][4]["tool_calls"][0]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("add", {"amount": 1})
    assert row["messages"][5]["tool_call_id"] == call["id"]
    assert row["messages"][3]["content"] == "<image>"
    assert row["images"][0].startswith("data:image/png;base64,")
    assert len({row["group_id"] for row in dataset}) == 3
    last = dataset[-1]
    assert (last["task"], last["failure"], last["dropped"]) == ('{"target": 1}', "connect", True)

    trajectories = [member for group in played for member in group.members]
    of_trajectories = to_dataset(trajectories, score=lambda each: 10 * (trajectory_return(each) or 0))
    assert of_trajectories["return"][:] == [10.0] * 4
    assert to_dataset([]).column_names == dataset.column_names
