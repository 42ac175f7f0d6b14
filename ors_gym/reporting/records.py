"""Trajectories in a file, one JSON object per line, written as groups complete.

The file needs no header and no ors-gym to read: any JSON reader (``jq``, pandas, ``datasets.load_dataset("json", …)``)
takes it line by line, also during the run or after a crash. One line::

    {"format": "ors-gym/trajectory", "version": 2, "written": "2026-11-21T11:30:00+00:00",
     "versions": {"ors-gym": "0.1.0", "python": "3.13.1", "gymnasium": "1.4.0", "numpy": "2.4.6"},   of the writer
     "run": {"policy": "random", …},                       the writer's description of the run
     "group": {"id": "…", "member": 0, "size": 8,          which member of which group; see TrajectoryGroup
               "scored": false, "score": null, "dropped": false, "attempts": 8, "refilled_for": null,
               "failures": [{"kind": "connection", "message": "…"}]},
     "note": {"epoch": 0, …},                              the writer's note on the group; optional
     "episode_id": "…", "task": {"env_name": "wordle", "split": "train", "index": 3, "task": null},
     "stop_reason": "finished", "failure": null,           a failure is {"kind", "message"}; stop_reason is "failed"
     "return": 1.0,                                        null if the episode has none
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

An exchange is one message of the agent and its results. ``output`` is null for a call without a result; ``id`` is null
for the call of the terminal tool that receives a plain message. ``blocks`` is the message as its endpoint sent it, with
details that only the endpoint reads; it is absent if there are none. ``return``, ``num_turns`` and ``num_tokens`` are
derived values for other readers. A reader ignores unknown keys, and refuses another ``version``.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from ors_gym.errors import ProtocolError
from ors_gym.redaction import Redactor
from ors_gym.reporting.provenance import packages
from ors_gym.reporting.record_format import RecordEncoder, read_failure, read_task, read_trajectory
from ors_gym.rollouts.returns import trajectory_return
from ors_gym.trajectory import Failure, TaskRef, Trajectory, TrajectoryGroup
from ors_gym.types.shapes import JSONObject

if TYPE_CHECKING:
    pass  # pyright: ignore[reportMissingTypeStubs]

__all__ = [
    "TrajectoryRecord",
    "TrajectoryWriter",
    "finished_tasks",
    "read_groups",
    "read_records",
    "read_trajectories",
]

FORMAT, VERSION = "ors-gym/trajectory", 2
BEGINNING = f'{{"format": "{FORMAT}"'.encode()
"""The beginning of every line."""
BLOCK_BYTES = 1 << 16
FilePath: TypeAlias = str | os.PathLike[str]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrajectoryRecord:
    """One line of a file: a trajectory with its group and its run."""

    trajectory: Trajectory
    group_id: str
    group_size: int
    member: int
    """The trajectory's index in its group."""
    score: float | None
    """The score from the environment's ``score_group``."""
    dropped: bool
    """Whether its group was dropped."""
    run: JSONObject
    """The writer's description of the run."""
    note: JSONObject = field(default_factory=dict[str, Any])
    """The writer's note on the group."""
    failures: tuple[Failure, ...] = ()
    """Every failed attempt of the group."""
    episode_return: float | None = None
    """The return as the writer computed it; None if the episode has none."""
    versions: JSONObject = field(default_factory=dict[str, Any])
    """Versions of ors-gym, Python and the packages that played or trained."""


class TrajectoryWriter:
    """Appends trajectories to a file, one line each, with one write per group.

    A torn last line, left by a crash, is removed with a warning. ``run`` goes into every line: whatever distinguishes
    the run from others (policy, seed, limits, …). ``secrets`` are masked wherever they occur. Values that are not JSON
    (NaN, objects of a policy) are written as null or as text.

    Raises ValueError for a file with other contents, which is left unchanged.
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

        ``note`` describes this group, such as its epoch. ``returns`` has the return of each member, by default
        :func:`~ors_gym.trajectory_return`.
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
        group_note = {} if note is None else {"note": encoder.plain(note)}
        lines: list[bytes] = []
        for member, trajectory in enumerate(group.members):
            place = {"group": about | {"member": member, "score": encoder.plain(scores[member])}}
            episode_return = {"return": encoder.plain(returns[member])}
            lines.append(self._line(place | group_note | encoder.trajectory(trajectory) | episode_return))
        self._file.write(b"".join(lines))
        self._file.flush()

    def write(self, trajectory: Trajectory) -> None:
        """Write a single episode as a group of one."""
        self.write_group(TrajectoryGroup(trajectory.task, (trajectory,), attempts=1))

    def _line(self, fields: dict[str, Any]) -> bytes:
        written = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"format": FORMAT, "version": VERSION, "written": written} | self._about | fields
        # Names chosen by a model or a server may hold a lone surrogate, which is not valid Unicode.
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
    """Remove the text after the last line break, unless it is a whole record."""
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
            logger.warning("%s ended in a torn line, which was removed", path)
        else:
            file.seek(end)
            file.write(b"\n")


def _check_beginning(path: FilePath, number: int | None, line: bytes) -> None:
    """Refuse a line that does not start like a trajectory record."""
    if not line.startswith(BEGINNING[: len(line)]):
        where = "the last line" if number is None else f"line {number}"
        raise ValueError(f"{path}, {where} is not a trajectory of ors-gym: it begins with {line[:40]!r}")


# ------------------------------------------------------------------- reading


def read_records(path: FilePath) -> Iterator[TrajectoryRecord]:
    """Read a file line by line. Incomplete lines, left by a crash, are skipped with a warning.

    Raises:
        ValueError: the file has other contents, or records of another version.
    """
    return (record for record, _ in _read(path))


def read_trajectories(path: FilePath) -> Iterator[Trajectory]:
    """The trajectories of a file, including failed ones and those of dropped groups."""
    return (record.trajectory for record in read_records(path))


def read_groups(path: FilePath) -> Iterator[TrajectoryGroup]:
    """The complete groups of a file, as they were written."""
    incomplete: dict[str, dict[int, TrajectoryRecord]] = defaultdict(dict)
    for record, group in _read(path):
        members = incomplete[record.group_id]
        members[record.member] = record
        if len(members) == record.group_size:
            del incomplete[record.group_id]
            records = [members[index] for index in range(record.group_size)]
            scores = tuple(member.score for member in records)
            played = tuple(member.trajectory for member in records)
            yield replace(group, members=played, scores=None if group.scores is None else scores)


def finished_tasks(path: FilePath) -> Counter[TaskRef]:
    """How often each task was played in a group that was kept: what a resumed run need not play again.

    Dropped and incomplete groups do not count. A missing file counts as empty.
    """
    finished: Counter[TaskRef] = Counter()
    with suppress(FileNotFoundError):
        finished.update(group.task for group in read_groups(path) if not group.dropped)
    return finished


def _read(path: FilePath) -> Iterator[tuple[TrajectoryRecord, TrajectoryGroup]]:
    """Each line's record, and its group without the members and their scores."""
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                wire = json.loads(line) if line.strip() else None
            except RecursionError:
                raise ValueError(f"{path}, line {number} is not a trajectory of ors-gym: nested too deeply") from None
            except ValueError:
                _check_beginning(path, number, line)
                logger.warning("%s: skipped torn line %d", path, number)
                continue
            if wire is None:
                continue
            try:
                yield _read_line(wire)
            except (ProtocolError, KeyError, TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"{path}, line {number} is not a trajectory of ors-gym: {error!r}") from error


def _place(about: JSONObject) -> tuple[str, int, int]:
    """The group's id and size, and the trajectory's index in it."""
    group_id, size, member = about["id"], about["size"], about["member"]
    if not (isinstance(group_id, str) and isinstance(size, int) and isinstance(member, int) and 0 <= member < size):
        raise ProtocolError("the group's id, size or member is missing or invalid")
    return group_id, size, member


def _read_line(wire: Any) -> tuple[TrajectoryRecord, TrajectoryGroup]:
    if wire.get("format") != FORMAT:
        raise ProtocolError(f"its format is {wire.get('format')!r}, not {FORMAT!r}")
    if wire["version"] != VERSION:
        raise ProtocolError(f"its version is {wire['version']}, and this ors-gym reads version {VERSION}")
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
