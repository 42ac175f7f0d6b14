"""Trajectories in a file: whole after a crash, the same when read back, readable by anyone, and free of secrets."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ors_gym import ToolCall
from ors_gym.redaction import MASK, Redactor
from ors_gym.reporting import records
from ors_gym.reporting.records import (
    TrajectoryWriter,
    finished_tasks,
    read_groups,
    read_records,
    read_trajectories,
)
from ors_gym.trajectory import Failure, StopReason, TaskRef, Trajectory, TrajectoryGroup, Transition
from ors_gym.types import (
    ImageBlock,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolCallBlock,
    ToolOutput,
    ToolResultBlock,
)

TASK = TaskRef("counter", "train", 0)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.text(), json_values, max_size=3)
blocks = st.builds(TextBlock, st.text(), st.none() | objects) | st.just(ImageBlock("AAAA", "image/png"))
block_lists = st.lists(blocks, max_size=3).map(tuple)
rewards = st.none() | st.floats(-1e6, 1e6)
outputs = st.builds(
    ToolOutput, blocks=block_lists, reward=rewards, finished=st.booleans(), metadata=st.none() | objects
) | st.builds(ToolOutput, ok=st.just(False), error=st.text(min_size=1), reason=st.none() | st.just("not_found"))
tasks = st.builds(TaskRef, st.text(), st.text(), st.integers(0, 9)) | st.builds(TaskRef, st.text(), task=objects)


@st.composite
def trajectories(draw) -> Trajectory:
    """Episodes as they are played, and ones with parts that do not fit together."""
    messages = [Message("user", draw(block_lists), draw(st.none() | objects))]
    transitions = []
    turns = draw(st.integers(0, 3))
    for turn in range(turns):
        moves = draw(st.lists(st.tuples(st.text(), objects, outputs), max_size=3))
        ids = [draw(st.sampled_from([f"call_{turn}_{place}", "call"])) for place in range(len(moves))]
        calls = [
            ToolCallBlock(call_id, name, arguments) for call_id, (name, arguments, _) in zip(ids, moves, strict=True)
        ]
        messages.append(Message("assistant", (ReasoningBlock("hm"), *calls)))
        shown = []
        for call_id, (name, arguments, output) in zip(ids, moves, strict=True):
            transitions.append(Transition(ToolCall(name, arguments), output, turn, draw(st.floats(0, 9))))
            told = draw(st.sampled_from([output.blocks if output.ok else (TextBlock(output.text),), ()]))
            shown.append(ToolResultBlock(call_id, told, is_error=not output.ok))
        if shown and draw(st.booleans()):
            messages.append(Message("user", tuple(shown)))
    reason = draw(st.sampled_from(StopReason))
    failure = Failure(draw(st.text()), draw(st.text())) if reason.failed else None
    numbers = {"seconds": draw(st.floats(0, 9)), "num_turns": turns, "num_tokens": draw(st.none() | st.integers(0, 9))}
    return Trajectory("e", draw(tasks), reason, tuple(transitions), tuple(messages), failure, **numbers, attempt=1)


@st.composite
def whole_groups(draw) -> TrajectoryGroup:
    members = draw(st.lists(trajectories(), min_size=1, max_size=3))
    members = tuple(dataclasses.replace(member, task=members[0].task) for member in members)
    scores = draw(st.none() | st.lists(rewards, min_size=len(members), max_size=len(members)).map(tuple))
    return TrajectoryGroup(
        members[0].task,
        members,
        tuple(draw(st.lists(st.builds(Failure, st.text(), st.text()), max_size=2))),
        draw(st.booleans()),
        scores=scores,
        attempts=draw(st.integers(0, 9)),
        cancelled=draw(st.integers(0, 9)),
        refilled_for=draw(st.none() | tasks),
    )


@given(groups=st.lists(whole_groups(), max_size=3))
def test_groups_read_back_are_the_groups_that_were_written(tmp_path_factory, groups):
    path = tmp_path_factory.mktemp("records") / "run.jsonl"
    with TrajectoryWriter(path, run={"seed": 3}) as writer:
        for group in groups:
            writer.write_group(group)

    assert list(read_groups(path)) == groups
    assert list(read_trajectories(path)) == [member for group in groups for member in group.members]
    assert all(record.run == {"seed": 3} for record in read_records(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "run.jsonl"


def episode(task: TaskRef = TASK, text: str = "Count.", **changes) -> Trajectory:
    messages = (Message("user", (TextBlock(text),)),)
    return Trajectory(f"episode of {task}", task, StopReason.FINISHED, messages=messages, **changes)


def group(task: TaskRef = TASK, size: int = 2, **changes) -> TrajectoryGroup:
    return TrajectoryGroup(task, (episode(task),) * size, **changes)


def test_a_record_needs_nothing_but_a_json_reader(path: Path):
    with TrajectoryWriter(path, run={"policy": "random"}) as writer:
        writer.write(episode(num_turns=3))

    script = "import json, sys; r = json.loads(open(sys.argv[1]).readline()); print(r['run'], r['num_turns'])"
    shown = subprocess.run([sys.executable, "-I", "-c", script, path], capture_output=True, text=True, check=True)
    assert shown.stdout == "{'policy': 'random'} 3\n"


@pytest.mark.parametrize("kept", [1, 0.5, 0.999], ids=["a byte", "half", "all but the break"])
def test_a_torn_last_line_is_skipped_and_said_so(path: Path, caplog, kept: float):
    with TrajectoryWriter(path) as writer:
        writer.write(episode())
        whole = path.stat().st_size
        writer.write(episode())
    size = whole + max(1, int((path.stat().st_size - whole) * kept) - 2)
    with path.open("r+b") as file:
        file.truncate(size)

    assert len(list(read_trajectories(path))) == 1
    assert "line 2 is torn" in caplog.text

    with TrajectoryWriter(path) as writer:
        assert "ended in a torn line, which was cut off" in caplog.text
        assert path.stat().st_size == whole
        writer.write(episode(num_turns=7))
    assert [each.num_turns for each in read_trajectories(path)] == [0, 7]


def test_a_whole_line_without_its_break_is_kept(path: Path):
    with TrajectoryWriter(path) as writer:
        writer.write(episode(text="x" * 200_000))
    path.write_bytes(path.read_bytes()[:-1])

    with TrajectoryWriter(path) as writer:
        writer.write(episode())
    assert len(list(read_trajectories(path))) == 2


def test_a_process_that_is_killed_leaves_every_group_that_it_wrote(path: Path):
    script = """
import os, signal, sys
from ors_gym.reporting.records import TrajectoryWriter
from ors_gym.trajectory import StopReason, TaskRef, Trajectory
writer = TrajectoryWriter(sys.argv[1])
for number in range(5):
    writer.write(Trajectory(str(number), TaskRef("counter", "train", number), StopReason.FINISHED))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script, path]).returncode == -9

    assert [each.episode_id for each in read_trajectories(path)] == ["0", "1", "2", "3", "4"]
    assert sorted(task.index for task in finished_tasks(path)) == [0, 1, 2, 3, 4]


def test_what_was_dropped_or_cut_off_is_not_finished(path: Path):
    one, two, three = (TaskRef("counter", "train", index) for index in range(3))
    with TrajectoryWriter(path) as writer:
        for each in (group(one), group(one), group(two, dropped=True), group(three)):
            writer.write_group(each)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))

    assert finished_tasks(path) == {one: 2}
    assert len(list(read_groups(path))) == 3
    assert len(list(read_records(path))) == 7


def test_no_file_has_no_finished_tasks(path: Path):
    assert not finished_tasks(path)


def test_tasks_are_counted_by_what_they_are():
    assert TaskRef("e", task={"a": 1, "b": 2}) in {TaskRef("e", task={"b": 2, "a": 1})}
    assert len({TASK, TaskRef("counter", "train", 0), TaskRef("counter", "test", 0)}) == 2


SECRETS = ['pass"word', "schlüssel", "sk-123/456"]


def test_secrets_are_in_no_record_however_they_are_quoted(path: Path):
    told = " ".join(f"{secret} {json.dumps(secret)} {secret!r} {Redactor([])(secret)}" for secret in SECRETS)
    told += " sk-123%2F456"
    output = ToolOutput((TextBlock(told),), metadata={told: [told]})
    transition = Transition(ToolCall("look", {"key": told}), output, 0, 0.0)
    failure = Failure("connection", told)
    with TrajectoryWriter(path, run={"note": told}, secrets=SECRETS) as writer:
        writer.write_group(
            TrajectoryGroup(
                TASK,
                (
                    episode(text=told, transitions=(transition,)),
                    Trajectory("e", TaskRef("counter", task={"note": told}), StopReason.FAILED, failure=failure),
                ),
                (failure,),
            )
        )

    text = path.read_text()
    assert MASK in text
    assert not any(form in text for form in ("pass", "schl", "sk-123"))
    assert len(list(read_records(path))) == 2


def test_what_is_no_json_is_written_all_the_same(path: Path):
    odd = {"nan": math.nan, "set": {1}, 3: "a number", "half": "\ud83d"}
    transition = Transition(ToolCall("look", odd), ToolOutput(metadata=odd), 0, 0.0)
    with TrajectoryWriter(path) as writer:
        writer.write(episode(transitions=(transition,)))

    (read,) = read_trajectories(path)
    assert read.transitions[0].action.input == {"nan": None, "set": "{1}", "3": "a number", "half": "\ufffd"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"format": "other"}', "its format is 'other'"),
        ('{"format": "ors-gym/trajectory", "version": 2}', "version 2"),
        ('{"format": "ors-gym/trajectory", "version": 1}', "line 1 is no trajectory"),
        ("[1]", "line 1 is no trajectory"),
        ("[project]", "line 1 is no trajectory"),
        ('{"format": "other", "torn', "line 1 is no trajectory"),
    ],
)
def test_another_file_is_refused_with_the_line_and_the_reason(tmp_path: Path, line: str, words: str):
    path = tmp_path / "other.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=words):
        list(read_records(path))


@pytest.mark.parametrize("text", ["[project]\n", "[project]", '{"format": "other"}\n{"torn', "\x00\x00\n"])
def test_another_file_is_never_written_to(tmp_path: Path, text: str):
    path = tmp_path / "pyproject.toml"
    path.write_text(text)

    with pytest.raises(ValueError, match="line 1 is no trajectory"):
        TrajectoryWriter(path)
    assert path.read_text() == text


def test_keys_that_a_reader_does_not_know_are_ignored(path: Path):
    with TrajectoryWriter(path) as writer:
        writer.write(episode())
    line = json.loads(path.read_text())
    line["task"]["new"] = line["group"]["new"] = line["new"] = 1
    path.write_text(json.dumps(line) + "\n")

    assert len(list(read_trajectories(path))) == 1


def test_every_key_of_a_record_is_in_the_documentation(path: Path):
    transitions = (Transition(ToolCall("guess", {}), ToolOutput((TextBlock("no"),)), 0, 0.0),)
    failed = Trajectory("f", TASK, StopReason.FAILED, failure=Failure("connect", "no"), transitions=transitions)
    with TrajectoryWriter(path) as writer:
        writer.write_group(TrajectoryGroup(TASK, (failed,), (Failure("connect", "no"),), refilled_for=TASK))

    def keys(value: object) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(keys, value))
        return set(value) | keys(list(value.values())) if isinstance(value, dict) else set()

    documented = records.__doc__ or ""
    assert {key for key in keys(json.loads(path.read_text())) if f'"{key}"' not in documented} == set()
