"""Checks that a task is one problem: the same each time it is opened, and different from other tasks.

Training compares the episodes of one task, and an evaluation assumes that test tasks do not occur in training. An
environment that ignores its seed breaks the first, one whose seeds change nothing the second, and neither raises an
error. So a few tasks are opened and played with identical moves: prompts, results and rewards must agree for one task,
in another session, next to concurrent sessions and in another process, and must differ between tasks.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ors_gym.client.client import ORSClient
from ors_gym.client.session import Session
from ors_gym.errors import ORSError, ToolFailedError
from ors_gym.spaces.spaces import ToolCallSpace
from ors_gym.types import ToolOutput, shown_blocks
from ors_gym.types.shapes import JSONObject

__all__ = ["Finding", "Playout", "TaskReport", "difference", "outcome_shown", "probe_tasks"]

Playout: TypeAlias = tuple[str, ...]
"""The content of an episode: the prompt, then the result of each move."""

NUM_TASKS = 8
NUM_MOVES = 12
CLOCK_SECONDS = 1.1
"""Seconds between two openings of a task on another machine, longer than the resolution of clocks used as seeds."""

_MEANINGS = {
    "repeatable": "a task is the same episode each time",
    "independent": "concurrent sessions do not affect each other",
}

_SAYS_WHICH = {"enum", "const", "examples", "pattern", "format"}
"""Keywords of a schema that restrict which texts are meaningful."""

ISOLATE = "give each session its own process: ors-gym serve … --isolated 8, or serve(…, isolated=8)"


@dataclass(frozen=True, slots=True)
class Finding:
    """One property of the tasks: whether it holds, what was observed, and the remedy if it does not."""

    name: str
    holds: bool | None
    """None: not judged."""
    message: str
    remedy: str = ""
    is_fault: bool = True
    """Whether the property is required. Games without chance have only one start, which is not a fault."""

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


@dataclass(frozen=True, slots=True)
class TaskReport:
    """The findings on the tasks of one split."""

    env_name: str
    split: str
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The required properties that do not hold."""
        return tuple(each for each in self.findings if each.holds is False and each.is_fault)

    @property
    def ok(self) -> bool:
        """Whether no required property is known to fail."""
        return not self.faults


def outcome_shown(output: ToolOutput) -> str:
    """The result of a move for an agent. Rewards are rounded to six digits: further ones depend on the machine."""
    if not output.ok:
        return f"refused: {output.error}"
    reward = "none" if output.reward is None else f"{output.reward:.6g}"
    return f"{shown_blocks(output.blocks)}\nreward {reward}, finished {output.finished}"


def difference(one: Playout, other: Playout) -> str | None:
    """Where two playouts diverge, as text; None if they agree."""
    for number, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return f"after {number} moves" if number else "in the prompt"
    return None if len(one) == len(other) else f"after {min(len(one), len(other))} moves"


async def probe_tasks(
    client: ORSClient,
    env_name: str,
    split: str,
    *,
    elsewhere: ORSClient | None = None,
    reseeds: bool = False,
    num_tasks: int = NUM_TASKS,
    num_moves: int = NUM_MOVES,
    at_once: bool = True,
    secrets: Mapping[str, str] | None = None,
    seconds: float = 20.0,
) -> TaskReport:
    """Open tasks of a split several times, play them with the same moves, and compare.

    Args:
        client: The server. Sessions are opened and closed on it, and tools are called unless ``num_moves`` is 0.
        env_name: The environment.
        split: The split whose first tasks are played.
        elsewhere: The same environment in another process.
        reseeds: Whether that process randomizes the global random generators before each request.
        num_tasks: Number of tasks to compare.
        num_moves: Number of calls per episode.
        at_once: Whether to open sessions concurrently; False if the server holds only one at a time.
        secrets: The secrets that the environment needs.
        seconds: Time limit; properties not judged by then are omitted. The start of the first episode, which imports
            the environment's packages, has the same limit again.
    """
    probe = _Probe(
        client, elsewhere, reseeds, env_name, split, secrets, num_tasks, num_moves, seconds / 20, seconds / 4
    )
    try:
        async with asyncio.timeout(seconds):
            await probe.warm_up()
        async with asyncio.timeout(seconds):
            await probe.run(at_once=at_once)
    except TimeoutError:
        missing = [meaning for name, meaning in _MEANINGS.items() if name not in probe.judged]
        text = f"{seconds:g} s were not enough to judge whether {', '.join(missing)}"
        if missing:
            probe.findings.append(Finding("time", None, text))
    except ORSError as error:
        text = f"task {split}[0] could not be played: {error.message}"
        probe.findings.append(Finding("starts", False, text, is_fault=False))
    probe.judge_variety()
    return TaskReport(env_name, split, tuple(probe.findings))


def _takes_any_text(schema: JSONObject | None) -> bool:
    parts: Any = (schema or {}).get("properties", {})
    return any(part.get("type") == "string" and part.keys().isdisjoint(_SAYS_WHICH) for part in parts.values())


@dataclass
class _Probe:
    client: ORSClient
    elsewhere: ORSClient | None
    reseeds: bool
    env_name: str
    split: str
    secrets: Mapping[str, str] | None
    num_tasks: int
    num_moves: int
    walk_seconds: float
    enough_seconds: float
    walks: int = 3
    first_walk: int = 0
    attempts: int = 2 * NUM_MOVES
    plays_random_texts: bool = False
    """Whether the calls are texts of which nothing says what they may be: hardly any does something."""
    findings: list[Finding] = field(default_factory=list[Finding])
    playouts: list[Playout] = field(default_factory=list[Playout])
    """One playout for each of the first tasks."""

    async def warm_up(self) -> None:
        """Begin an episode in each process: the first one takes longer than others, and says nothing of them."""
        clients = [self.client] if self.elsewhere is None else [self.client, self.elsewhere]
        await asyncio.gather(*(self._begin(client) for client in clients))

    async def _begin(self, client: ORSClient) -> None:
        async with client.session(self.env_name, split=self.split, index=0, secrets=self.secrets) as session:
            await session.get_prompt()

    async def run(self, *, at_once: bool) -> None:
        began = time.monotonic()
        num_tasks = min(self.num_tasks, await self.client.num_tasks(self.env_name, self.split))
        first = await self._play(self.client, 0)
        if time.monotonic() > began + self.walk_seconds:  # limits all later walks to the length of this one
            first = first[: self.first_walk]
            self.walks, self.attempts = 1, self.first_walk - 1
        self.walk_seconds = math.inf
        waits = 0.0 if not self.num_moves else CLOCK_SECONDS if self.elsewhere is None else 1 - time.time() % 1
        ready = time.monotonic() + waits
        self.playouts.append(first)
        while len(self.playouts) < num_tasks and (len(self.playouts) < 2 or time.monotonic() < ready):
            self.playouts.append(await self._play(self.client, len(self.playouts)))
        await asyncio.sleep(ready - time.monotonic())
        parts = difference(first, await self._play(self.client, 0))
        self._judge(
            "repeatable",
            parts is None,
            "a reopened task is the same episode"
            if parts is None
            else f"reopened, task {self.split}[0] is a different episode (they diverge {parts}), so that groups "
            "and evaluations compare different problems",
            "make reset() draw everything from the task's seed, not from a clock or the process's random state",
        )
        if parts is not None:
            self.playouts.clear()  # their variety is meaningless
            return
        if self.elsewhere is not None:
            await self._judge_elsewhere(self.elsewhere, first)
        if at_once and self.judged.isdisjoint({"independent"}):
            await self._judge_at_once(self.playouts[:2])
        for index in range(len(self.playouts), num_tasks):
            if time.monotonic() > began + self.enough_seconds and len(set(self.playouts)) > 1:
                break  # that they differ is known, and each takes long to begin
            self.playouts.append(await self._play(self.client, index))

    def _judge(self, name: str, holds: bool, message: str, remedy: str, *, is_fault: bool = True) -> None:
        self.findings.append(Finding(name, holds, message, "" if holds else remedy, is_fault))

    @property
    def judged(self) -> set[str]:
        return {each.name for each in self.findings}

    def judge_variety(self) -> None:
        """Judge how many of the played tasks differ."""
        different, count = len(set(self.playouts)), len(self.playouts)
        if count < 2:
            return
        if different == 1 and not self.num_moves:
            self.findings.append(Finding("different", None, f"the first {count} tasks have the same prompt"))
            return
        holds = different > 1
        self._judge(
            "different",
            holds,
            f"{different} of the first {count} tasks differ"
            if holds
            else f"the first {count} tasks of {self.split} are identical: training and test tasks are the same",
            "put what varies (a map, a level, an opponent, a file) into the tasks, or offer one task"
            + "; only random texts were played: they may differ with examples of actions (--example TEXT)"
            * self.plays_random_texts,
            is_fault=False,
        )

    async def _judge_elsewhere(self, elsewhere: ORSClient, first: Playout) -> None:
        one = await self._play(elsewhere, 0)
        parts = difference(first, one)
        if self.reseeds and (parts is not None or self.num_moves):
            again = await self._play(elsewhere, 0)
            apart = difference(one, again)
            if apart is not None:
                self._judge(
                    "independent",
                    False,
                    "the environment draws from the random state of its process (random.seed or numpy.random.seed), "
                    f"so that concurrent sessions change each other's episodes (observed {apart})",
                    ISOLATE,
                )
                return
        self._judge(
            "portable",
            parts is None,
            "a task is the same episode in another process"
            if parts is None
            else f"in another process task {self.split}[0] is a different episode (they diverge {parts})",
            "make episodes independent of set order and of the process's earlier work",
        )

    async def _judge_at_once(self, playouts: Sequence[Playout]) -> None:
        indices = [index for _ in range(2) for index in range(len(playouts))]
        playthroughs = await asyncio.gather(*(self._play(self.client, index) for index in indices))
        parts = [difference(playouts[index], each) for index, each in zip(indices, playthroughs, strict=True)]
        apart = next((each for each in parts if each is not None), None)
        self._judge(
            "independent",
            apart is None,
            "concurrent sessions do not affect each other"
            if apart is None
            else f"next to concurrent sessions a task is a different episode (they diverge {apart}): they share state, "
            "or are not "
            "thread-safe",
            f"{ISOLATE}; if only threads are the problem, --one-thread suffices",
        )

    async def _play(self, client: ORSClient, index: int) -> Playout:
        """Play an episode, and up to two more if the first ends before anything could differ."""
        shown: list[str] = []
        for walk in range(self.walks):
            async with client.session(self.env_name, split=self.split, index=index, secrets=self.secrets) as session:
                shown += await self._walk(session, walk)
            if walk == 0:
                self.first_walk = len(shown)
            if not self.num_moves or len(shown) > 3:
                break
        return tuple(shown)

    async def _walk(self, session: Session, seed: int) -> list[str]:
        """Play random moves. Refused ones do not change the episode and are not counted."""
        tools = await session.list_tools()
        shown = ["\n".join([*tools.names, shown_blocks(await session.get_prompt())])]
        if not len(tools):
            return shown
        self.plays_random_texts = all(_takes_any_text(tool.input_schema) for tool in tools)
        deadline = time.monotonic() + self.walk_seconds
        space, draw, moves = ToolCallSpace(tools), random.Random(seed), 0
        for _ in range(self.attempts):
            if moves == self.num_moves or time.monotonic() > deadline:
                break
            space.seed(draw.getrandbits(31))
            call = space.sample()
            try:
                output = await session.call_tool(call.name, call.input)
            except ToolFailedError as error:
                return [*shown, f"failed: {error.message}"]
            shown.append(outcome_shown(output))
            moves += output.ok
            if output.finished:
                break
        return shown
