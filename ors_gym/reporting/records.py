"""Trajectories in a file, one JSON object a line, written as groups complete.

The file needs no header and no package of its writer's: any JSON reader takes it (``jq``, pandas,
``datasets.load_dataset("json", …)``), line by line, also while the run goes on or after it crashed. One line::

    {"format": "ors-gym/trajectory", "version": 2, "written": "2026-11-21T11:30:00+00:00",
     "versions": {"ors-gym": "0.1.0", "python": "3.13.1", "gymnasium": "1.4.0", "numpy": "2.4.6"},   what wrote it
     "run": {"policy": "random", …},                       what the writer says of the run
     "group": {"id": "…", "member": 0, "size": 8,          which member of which group; see TrajectoryGroup
               "scored": false, "score": null, "dropped": false, "attempts": 8, "refilled_for": null,
               "failures": [{"kind": "connection", "message": "…"}]},
     "note": {"epoch": 0, …},                              what the writer says of the group; absent without one
     "episode_id": "…", "task": {"env_name": "wordle", "split": "train", "index": 3, "task": null},
     "stop_reason": "finished", "failure": null,           a failure is {"kind", "message"}; stop_reason is "failed"
     "return": 1.0,                                        null where the episode has none
     "num_turns": 4, "num_tokens": null, "seconds": 2.5, "attempt": 0,
     "prompt": [{"role": "user", "blocks": [{"type": "text", "text": "…"}]}, …],     as on the wire
     "exchanges": [{"text": "…", "reasoning": "", "error": null, "reason": null, "truncated": false,
                    "num_tokens": null, "num_prompt_tokens": null, "num_cached_tokens": null,
                    "num_reasoning_tokens": null,
                    "calls": [{"id": "call_0_0", "name": "guess", "input": {"word": "crane"}, "seconds": 0.1,
                               "output": {"ok": true, "reward": null, "finished": false, "metadata": null,
                                          "error": null, "reason": null, "blocks": [{"type": "text", "text": "…"}]}}],
                    "notices": [], "finished": false,
                    "blocks": [{"type": "text", "text": "…", "detail": {…}}]}]}

An exchange is one message of the agent and what came of it. A call that was not answered has ``output`` null; the call
of the terminal tool, which a plain message goes to, has ``id`` null. ``blocks`` has the message as its endpoint sent
it, with what only the endpoint understands; it is absent where there is no such thing. ``return``, ``num_turns`` and
``num_tokens`` are there for other readers. A reader ignores keys that it does not know, and refuses another
``version``.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast

from ors_gym.errors import ProtocolError
from ors_gym.extras import packages_of
from ors_gym.policies.chat import chat_messages
from ors_gym.policies.names import ToolNames
from ors_gym.redaction import Redactor
from ors_gym.reporting.provenance import packages
from ors_gym.reporting.record_format import RecordEncoder, read_failure, read_task, read_trajectory
from ors_gym.rollouts.returns import trajectory_return
from ors_gym.trajectory import Failure, TaskRef, Trajectory, TrajectoryGroup
from ors_gym.types.shapes import JSONObject

if TYPE_CHECKING:
    from datasets import Dataset  # pyright: ignore[reportMissingTypeStubs]

__all__ = [
    "TrajectoryRecord",
    "TrajectoryWriter",
    "finished_tasks",
    "read_groups",
    "read_records",
    "read_trajectories",
    "to_dataset",
]

FORMAT, VERSION = "ors-gym/trajectory", 2
BEGINNING = f'{{"format": "{FORMAT}"'.encode()
"""Of every line."""
BLOCK_BYTES = 1 << 16
FilePath: TypeAlias = str | os.PathLike[str]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrajectoryRecord:
    """One line of a file: a trajectory, and where it stood in its run."""

    trajectory: Trajectory
    group_id: str
    group_size: int
    member: int
    """The trajectory's index in its group."""
    score: float | None
    """What the environment's ``score_group`` gave it."""
    dropped: bool
    """Whether its group was dropped."""
    run: JSONObject
    """What the writer said of the run."""
    note: JSONObject = field(default_factory=dict[str, Any])
    """What the writer said of the group."""
    failures: tuple[Failure, ...] = ()
    """Every failed attempt of its group."""
    episode_return: float | None = None
    """What the writer said that the episode is worth; None where it has no return."""
    versions: JSONObject = field(default_factory=dict[str, Any])
    """The packages that wrote it: of ors-gym, Python, and of those that played or trained."""


class TrajectoryWriter:
    """Appends trajectories to a file, one line each, in one write for each group.

    A torn line that a crash left at the end of the file is cut off first, and said so. ``run`` goes into every line:
    whatever tells one run from another (policy, seed, limits, …). ``secrets`` are blanked out wherever they occur.
    What is no JSON (NaN, objects of the policy's own) is written as null or as text.

    Raises ValueError for a file that holds something else; it is left as it is.
    """

    def __init__(self, path: FilePath, *, run: JSONObject | None = None, secrets: Iterable[str] = ()) -> None:
        self.path = Path(path)
        self._encoder = RecordEncoder(Redactor(secrets))
        self._about = {"versions": packages(), "run": self._encoder.plain(dict(run or {}))}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(self.path)
        self._file = self.path.open("ab")

    def write_group(
        self,
        group: TrajectoryGroup,
        note: JSONObject | None = None,
        *,
        returns: Sequence[float | None] | None = None,
    ) -> None:
        """Write every member of a group.

        ``note`` is what the writer says of this group, such as its epoch. ``returns`` has what each member is worth,
        by default :func:`~ors_gym.trajectory_return`.
        """
        encoder = self._encoder
        scores = group.scores or (None,) * len(group.members)
        returns = [trajectory_return(member) for member in group.members] if returns is None else returns
        about = {
            "id": uuid.uuid4().hex,
            "size": len(group.members),
            "dropped": group.dropped,
            "scored": group.scores is not None,
            "attempts": group.attempts,
            "refilled_for": group.refilled_for and encoder.task(group.refilled_for),
            "failures": [encoder.failure(failure) for failure in group.failures],
        }
        of_group = {} if note is None else {"note": encoder.plain(note)}
        lines: list[bytes] = []
        for member, trajectory in enumerate(group.members):
            place = {"group": about | {"member": member, "score": encoder.plain(scores[member])}}
            worth = {"return": encoder.plain(returns[member])}
            lines.append(self._line(place | of_group | encoder.trajectory(trajectory) | worth))
        self._file.write(b"".join(lines))
        self._file.flush()

    def write(self, trajectory: Trajectory) -> None:
        """Write an episode that was played alone: a group of one."""
        self.write_group(TrajectoryGroup(trajectory.task, (trajectory,), attempts=1))

    def _line(self, fields: dict[str, Any]) -> bytes:
        written = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"format": FORMAT, "version": VERSION, "written": written} | self._about | fields
        # Half a surrogate pair, of a name that a model or a server chose, is no Unicode.
        return json.dumps(record, ensure_ascii=False, allow_nan=False).encode(errors="replace") + b"\n"

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _cut_torn_line(path: Path) -> None:
    """Cut off what stands after the last line break, unless it is a whole record without one."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        _check_beginning(path, 1, file.read(len(BEGINNING)))
        end = file.seek(0, os.SEEK_END)
        begin, last = end, b""
        while begin > 0 and b"\n" not in last:
            begin = file.seek(max(0, begin - BLOCK_BYTES))
            last = file.read(min(BLOCK_BYTES, end - begin)) + last
        last = last.rpartition(b"\n")[2]
        if not last:
            return
        _check_beginning(path, None, last)
        try:
            json.loads(last)
        except ValueError:
            file.truncate(end - len(last))
            logger.warning("%s ended in a torn line, which was cut off", path)
        else:
            file.seek(end)
            file.write(b"\n")


def _check_beginning(path: FilePath, number: int | None, line: bytes) -> None:
    """Refuse a line that no writer of trajectories has begun."""
    if not line.startswith(BEGINNING[: len(line)]):
        where = "the last line" if number is None else f"line {number}"
        raise ValueError(f"{path}, {where} is no trajectory of ors-gym: it begins with {line[:40]!r}")


# ------------------------------------------------------------------- reading


def read_records(path: FilePath) -> Iterator[TrajectoryRecord]:
    """Read a file line by line. Lines that are no whole JSON, as a crash leaves one, are skipped and said so.

    Raises:
        ValueError: the file holds something else, or records of a newer version.
    """
    return (record for record, _ in _read(path))


def read_trajectories(path: FilePath) -> Iterator[Trajectory]:
    """The trajectories of a file, failed ones and those of dropped groups included."""
    return (record.trajectory for record in read_records(path))


def read_groups(path: FilePath) -> Iterator[TrajectoryGroup]:
    """The groups of a file whose members are all there, as they were before they were written."""
    begun: dict[str, dict[int, TrajectoryRecord]] = defaultdict(dict)
    for record, group in _read(path):
        members = begun[record.group_id]
        members[record.member] = record
        if len(members) == record.group_size:
            del begun[record.group_id]
            records = [members[place] for place in range(record.group_size)]
            scores = tuple(member.score for member in records)
            played = tuple(member.trajectory for member in records)
            yield replace(group, members=played, scores=None if group.scores is None else scores)


def finished_tasks(path: FilePath) -> Counter[TaskRef]:
    """How often each task was played to a group that was kept: what a resumed run need not play again.

    Groups that were dropped, or cut off by a crash, do not count. A file that is not there has none.
    """
    finished: Counter[TaskRef] = Counter()
    with suppress(FileNotFoundError):
        finished.update(group.task for group in read_groups(path) if not group.dropped)
    return finished


def _read(path: FilePath) -> Iterator[tuple[TrajectoryRecord, TrajectoryGroup]]:
    """Each line's record, and its group as far as the line tells: without its members and their scores."""
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                wire = json.loads(line) if line.strip() else None
            except RecursionError:
                raise ValueError(f"{path}, line {number} is no trajectory of ors-gym: nested too deeply") from None
            except ValueError:
                _check_beginning(path, number, line)
                logger.warning("%s: line %d is torn, and skipped", path, number)
                continue
            if wire is None:
                continue
            try:
                yield _read_line(wire)
            except (ProtocolError, KeyError, TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"{path}, line {number} is no trajectory of ors-gym: {error!r}") from error


def _place(about: JSONObject) -> tuple[str, int, int]:
    """The group's id and size, and the trajectory's place in it."""
    group_id, size, member = about["id"], about["size"], about["member"]
    if not (isinstance(group_id, str) and isinstance(size, int) and isinstance(member, int) and 0 <= member < size):
        raise ProtocolError("it has no place in a group")
    return group_id, size, member


def _read_line(wire: Any) -> tuple[TrajectoryRecord, TrajectoryGroup]:
    if wire.get("format") != FORMAT:
        raise ProtocolError(f"its format is {wire.get('format')!r}, not {FORMAT!r}")
    if wire["version"] != VERSION:
        raise ProtocolError(f"it is of version {wire['version']}, and this ors-gym reads version {VERSION}")
    about, trajectory = wire["group"], read_trajectory(wire)
    hash(trajectory.task)
    place = _place(about)
    failures = tuple(map(read_failure, about["failures"]))
    note: JSONObject = wire.get("note") or {}
    versions: JSONObject = wire.get("versions") or {}
    record = TrajectoryRecord(
        trajectory, *place, about["score"], about["dropped"], wire["run"], note, failures, wire["return"], versions
    )
    group = TrajectoryGroup(
        trajectory.task,
        members=(),
        failures=failures,
        dropped=about["dropped"],
        scores=() if about["scored"] else None,
        attempts=about["attempts"],
        refilled_for=about["refilled_for"] and read_task(about["refilled_for"]),
    )
    return record, group


# ------------------------------------------------------------------- datasets


def to_dataset(
    source: FilePath | Iterable[Trajectory], score: Callable[[Trajectory], float | None] | None = None
) -> Dataset:
    """A Hugging Face dataset, one row a trajectory, of a file or of trajectories (extra ``datasets``).

    Its columns: ``messages`` is the conversation as chat templates take it (``role``, ``content``, ``tool_calls``
    with their arguments as JSON text, ``tool_call_id``, ``reasoning_content``), with ``<image>`` where ``images`` has
    one, as a data URL; ``rewards`` has one number or null for each tool call; ``return`` is what ``score`` says, by
    default what the file says, or :func:`~ors_gym.trajectory_return` of trajectories; ``task``,
    ``run`` and ``versions`` are JSON. The rest is named as in :class:`~ors_gym.trajectory.Trajectory` and
    :class:`TrajectoryRecord`.
    """
    with packages_of("datasets"):
        import datasets  # pyright: ignore[reportMissingTypeStubs]

    if isinstance(source, str | os.PathLike):
        rows = [_row(record.trajectory, score, record) for record in read_records(source)]
    else:
        rows = [_row(trajectory, score) for trajectory in source]
    text, number, count = datasets.Value("string"), datasets.Value("float64"), datasets.Value("int64")
    function = {"name": text, "arguments": text}
    message = {
        "role": text,
        "content": text,
        "tool_calls": [{"id": text, "type": text, "function": function}],
        "tool_call_id": text,
        "reasoning_content": text,
    }
    columns = {
        "episode_id": text,
        "run": text,
        "versions": text,
        "env_name": text,
        "split": text,
        "index": count,
        "task": text,
        "group_id": text,
        "member": count,
        "dropped": datasets.Value("bool"),
        "score": number,
        "stop_reason": text,
        "failure": text,
        "return": number,
        "rewards": datasets.List(number),
        "num_turns": count,
        "num_tokens": count,
        "seconds": number,
        "messages": [message],
        "images": datasets.List(text),
    }
    make = cast("Any", datasets.Dataset)
    by_column = {name: [row[name] for row in rows] for name in columns}
    return cast("Dataset", make.from_dict(by_column, features=datasets.Features(columns)))


def _row(
    episode: Trajectory, score: Callable[[Trajectory], float | None] | None, record: TrajectoryRecord | None = None
) -> dict[str, Any]:
    images: list[str] = []
    messages = chat_messages(episode.messages, ToolNames(()), with_reasoning=True)
    task = episode.task
    if score is None:
        score = trajectory_return if record is None else lambda _: record.episode_return
    return {
        "episode_id": episode.episode_id,
        "run": record and json.dumps(record.run),
        "versions": record and json.dumps(record.versions),
        "env_name": task.env_name,
        "split": task.split,
        "index": task.index,
        "task": None if task.task is None else json.dumps(dict(task.task)),
        "group_id": record and record.group_id,
        "member": record and record.member,
        "dropped": record and record.dropped,
        "score": record and record.score,
        "stop_reason": str(episode.stop_reason),
        "failure": episode.failure and episode.failure.kind,
        "return": score(episode),
        "rewards": list(episode.rewards),
        "num_turns": episode.num_turns,
        "num_tokens": episode.num_tokens,
        "seconds": episode.seconds,
        "messages": [_text_only(message, images) for message in messages],
        "images": images,
    }


def _text_only(message: dict[str, Any], images: list[str]) -> dict[str, Any]:
    """A chat message whose images are moved to ``images``, with every column there is."""
    content = message["content"]
    if not isinstance(content, str):
        images += [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        content = "\n".join("<image>" if part["type"] == "image_url" else part["text"] for part in content)
    columns: dict[str, Any] = {"tool_calls": [], "tool_call_id": None, "reasoning_content": None}
    return columns | message | {"content": content}
