"""Whether a task is one problem: the same each time it is opened, and another than the next task.

Training compares the episodes of one task, and an evaluation those of the test split with nothing seen in training. An
environment that ignores its seed breaks the first, one whose seeds change nothing the second, and neither raises an
error. So a few tasks are opened and played with moves that are drawn alike for all: what was shown and rewarded has to
agree for one task, in another session, beside other sessions and in another process, and to differ between tasks.
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
"""What an episode showed: the prompt, then the result of each move."""

NUM_TASKS = 8
NUM_MOVES = 12
CLOCK_SECONDS = 1.1
"""Time between the two openings of a task on another machine, more than the second that clocks are read to."""

_MEANINGS = {
    "repeatable": "a task is the same episode each time",
    "independent": "sessions at once leave each other alone",
}

_SAYS_WHICH = {"enum", "const", "examples", "pattern", "format"}
"""Keywords of a schema that say which texts mean something."""

"""Keywords of a schema that say which texts mean something."""

ISOLATE = "give each session a process to itself: ors-gym serve … --isolated 8, or serve(…, isolated=8)"


@dataclass(frozen=True, slots=True)
class Finding:
    """One property of the tasks: whether it holds, what was seen, and what to do where it does not."""

    name: str
    holds: bool | None
    """None: it was not judged."""
    message: str
    remedy: str = ""
    is_fault: bool = True
    """Whether the property has to hold. Games without chance have one start, and are no fault."""

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


@dataclass(frozen=True, slots=True)
class TaskReport:
    """What was found of the tasks of one split."""

    env_name: str
    split: str
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The properties that have to hold, and do not."""
        return tuple(each for each in self.findings if each.holds is False and each.is_fault)

    @property
    def ok(self) -> bool:
        """No property that has to hold is known to fail."""
        return not self.faults


def outcome_shown(output: ToolOutput) -> str:
    """What an agent gets for a move. Rewards count to six digits: the last ones depend on the machine."""
    if not output.ok:
        return f"refused: {output.error}"
    reward = "none" if output.reward is None else f"{output.reward:.6g}"
    return f"{shown_blocks(output.blocks)}\nreward {reward}, finished {output.finished}"


def difference(one: Playout, other: Playout) -> str | None:
    """Where two playouts part, in words; None if they agree."""
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
        reseeds: Whether that process draws another state of the global random generators before each request.
        num_tasks: How many tasks are compared.
        num_moves: How many calls an episode is played for.
        at_once: Whether sessions are opened side by side; not where the server holds one at a time.
        secrets: What the environment needs to start.
        seconds: What is not judged by then is left out. Beginning the first episode, which imports what the environment
            needs, has as long once more.
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
    """Of the first tasks, one each."""

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
        if time.monotonic() > began + self.walk_seconds:  # from here on, all are as long as one walk was in that time
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
            "opened twice, a task is the same episode"
            if parts is None
            else f"opened twice, task {self.split}[0] is two different episodes (they part {parts}), so that groups "
            "and evaluations compare different problems",
            "have reset() use the task's seed for all that it draws, and no clock and no random state of the process",
        )
        if parts is not None:
            self.playouts.clear()  # how many differ says nothing
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
        """How many of the tasks that were played differ."""
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
            else f"the first {count} tasks of {self.split} are one and the same: what is trained on is what is tested",
            "name what varies (a map, a level, an opponent, a file) in the tasks, or offer one task"
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
                    f"so that sessions at once change each other's episodes (seen {apart})",
                    ISOLATE,
                )
                return
        self._judge(
            "portable",
            parts is None,
            "a task is the same episode in another process"
            if parts is None
            else f"in another process task {self.split}[0] is another episode (they part {parts})",
            "let no episode depend on the order of a set or on what the process did before",
        )

    async def _judge_at_once(self, playouts: Sequence[Playout]) -> None:
        indices = [index for _ in range(2) for index in range(len(playouts))]
        told = await asyncio.gather(*(self._play(self.client, index) for index in indices))
        parts = [difference(playouts[index], each) for index, each in zip(indices, told, strict=True)]
        apart = next((each for each in parts if each is not None), None)
        self._judge(
            "independent",
            apart is None,
            "sessions at once leave each other alone"
            if apart is None
            else f"beside other sessions a task is another episode (they part {apart}): they share state, or are not "
            "safe on several threads",
            f"{ISOLATE}; where only several threads are the matter, --one-thread is enough",
        )

    async def _play(self, client: ORSClient, index: int) -> Playout:
        """Play an episode; a second and a third one where the first ends before anything could differ."""
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
        """Play drawn moves. Those that are refused leave the episode where it was, and are not counted."""
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
