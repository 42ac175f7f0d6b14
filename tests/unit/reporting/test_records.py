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
from ors_gym.trajectory import Exchange, Failure, Reply, StopReason, TaskRef, Trajectory, TrajectoryGroup, Transition
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


counts = st.none() | st.integers(0, 9)
seconds = st.floats(0, 9)


@st.composite
def exchanges(draw) -> Exchange:
    """Messages with calls of which some were answered, plain ones, and ones that could not be read."""
    moves = draw(st.lists(st.tuples(st.text(), objects, st.none() | outputs), max_size=3))
    calls = [ToolCall(name, arguments, f"call_{place}") for place, (name, arguments, _) in enumerate(moves)]
    answers = [output for _, _, output in moves]
    played = [
        Transition(call, output, draw(seconds))
        for call, output in zip(calls, answers, strict=True)
        if output is not None
    ]
    error = None
    if draw(st.booleans()):  # a plain message: its one call is the terminal tool's
        calls, played, error = [], played[:1], draw(st.none() | st.text())
    reply = Reply(
        draw(st.text()), tuple(calls), error, draw(st.none() | st.text()), draw(st.text()), draw(st.booleans()),
        draw(counts), draw(counts),
    )  # fmt: skip
    return Exchange(reply, tuple(played), draw(block_lists), draw(st.booleans()))


@st.composite
def trajectories(draw) -> Trajectory:
    said = ToolCallBlock("c", draw(st.text()), draw(objects))
    heard = ToolResultBlock("c", draw(block_lists), is_error=draw(st.booleans()))
    prompt = (
        Message("user", draw(block_lists), draw(st.none() | objects)),
        Message("assistant", (ReasoningBlock("hm"), said)),
        Message("user", (heard,)),
    )
    reason = draw(st.sampled_from(StopReason))
    failure = Failure(draw(st.text()), draw(st.text())) if reason.failed else None
    played = tuple(draw(st.lists(exchanges(), max_size=3)))
    return Trajectory("e", draw(tasks), reason, prompt, played, failure, draw(seconds), attempt=1)


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
    prompt = (Message("user", (TextBlock(text),)),)
    return Trajectory(f"episode of {task}", task, StopReason.FINISHED, prompt, **changes)


def called(call: ToolCall, output: ToolOutput) -> tuple[Exchange]:
    return (Exchange(Reply(tool_calls=(call,)), (Transition(call, output),)),)


def group(task: TaskRef = TASK, size: int = 2, **changes) -> TrajectoryGroup:
    return TrajectoryGroup(**({"task": task, "members": (episode(task),) * size} | changes))


def test_a_record_needs_nothing_but_a_json_reader(path: Path):
    with TrajectoryWriter(path, run={"policy": "random"}) as writer:
        writer.write(episode(exchanges=called(ToolCall("look"), ToolOutput()) * 3))

    script = "import json, sys; r = json.loads(open(sys.argv[1]).readline()); print(r['run'], r['num_turns'])"
    shown = subprocess.run([sys.executable, "-I", "-c", script, path], capture_output=True, text=True, check=True)
    assert shown.stdout == "{'policy': 'random'} 3\n"


def test_what_the_run_says_an_episode_is_worth_is_in_its_record(path: Path):
    with TrajectoryWriter(path) as writer:
        writer.write_group(group(), returns=[0.25, None])

    assert [record.episode_return for record in read_records(path)] == [0.25, None]


@pytest.mark.parametrize("secret", ["user", "text", "type", "role", "call", "train", "counter", "finished", "name"])
def test_a_secret_that_is_an_ordinary_word_leaves_the_record_readable(path: Path, secret: str):
    exchange = called(ToolCall(secret, {"user": f"the {secret}"}), ToolOutput((TextBlock(secret),), 1.0))
    written = group(members=(episode(text=f"I am {secret}.", exchanges=exchange),))
    with TrajectoryWriter(path, secrets=[secret]) as writer:
        writer.write_group(written)

    (read,) = read_groups(path)
    (member,) = read.members
    assert (member.task, member.stop_reason) == (TASK, StopReason.FINISHED)
    assert member.prompt[0].text == f"I am {MASK}."
    assert member.transitions[0].action.name == (MASK if secret == "finished" else secret)
    assert member.transitions[0].action.input == {"user": f"the {MASK}"}
    assert member.transitions[0].output.text == MASK


@pytest.mark.parametrize("kept", [1, 0.5, 0.999], ids=["a byte", "half", "all but the break"])
def test_a_torn_last_line_is_skipped_with_a_warning(path: Path, caplog, kept: float):
    with TrajectoryWriter(path) as writer:
        writer.write(episode())
        whole = path.stat().st_size
        writer.write(episode())
    size = whole + max(1, int((path.stat().st_size - whole) * kept) - 2)
    with path.open("r+b") as file:
        file.truncate(size)

    assert len(list(read_trajectories(path))) == 1
    assert "skipped torn line 2" in caplog.text

    with TrajectoryWriter(path) as writer:
        assert "ended in a torn line, which was removed" in caplog.text
        assert path.stat().st_size == whole
        writer.write(episode(exchanges=called(ToolCall("look"), ToolOutput())))
    assert [each.num_turns for each in read_trajectories(path)] == [0, 1]


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
    exchanges = called(ToolCall("look", {"key": told}, told), output)
    failure = Failure("connection", told)
    with TrajectoryWriter(path, run={"note": told}, secrets=SECRETS) as writer:
        writer.write_group(
            TrajectoryGroup(
                TASK,
                (
                    episode(text=told, exchanges=exchanges),
                    Trajectory("e", TaskRef("counter", task={"note": told}), StopReason.FAILED, failure=failure),
                ),
                (failure,),
            )
        )

    text = path.read_text()
    assert MASK in text
    assert not any(form in text for form in ("pass", "schl", "sk-123"))
    assert len(list(read_records(path))) == 2


def test_values_that_are_not_json_are_still_written(path: Path):
    odd = {"nan": math.nan, "set": {1}, 3: "a number", "half": "\ud83d"}
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    with TrajectoryWriter(path) as writer:
        writer.write(
            episode(exchanges=called(ToolCall("look", odd), ToolOutput(metadata={"deep": deep, "n": 10**5000})))
        )

    (read,) = read_trajectories(path)
    assert isinstance(read.transitions[0].output.metadata["n"], str)
    assert read.transitions[0].action.input == {"nan": None, "set": "{1}", "3": "a number", "half": "\ufffd"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"format": "other"}', "its format is 'other'"),
        ('{"format": "ors-gym/trajectory", "version": 1}', "version is 1"),
        ('{"format": "ors-gym/trajectory", "version": 2}', "line 1 is not a trajectory"),
        ("[" * 100_000, "line 1 is not a trajectory"),
        ("[1]", "line 1 is not a trajectory"),
        ("[project]", "line 1 is not a trajectory"),
        ('{"format": "other", "torn', "line 1 is not a trajectory"),
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

    with pytest.raises(ValueError, match="line 1 is not a trajectory"):
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
    exchanges = called(ToolCall("guess", {}), ToolOutput((TextBlock("no"),)))
    failed = Trajectory("f", TASK, StopReason.FAILED, failure=Failure("connect", "no"), exchanges=exchanges)
    with TrajectoryWriter(path) as writer:
        writer.write_group(TrajectoryGroup(TASK, (failed,), (Failure("connect", "no"),), refilled_for=TASK))

    def keys(value: object) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(keys, value))
        if not isinstance(value, dict):
            return set()
        return set(value) | keys([inner for name, inner in value.items() if name != "versions"])  # those by package

    documented = records.__doc__ or ""
    assert {key for key in keys(json.loads(path.read_text())) if f'"{key}"' not in documented} == set()
