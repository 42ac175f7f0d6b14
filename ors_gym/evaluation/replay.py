"""Replay of recorded calls in a fresh session of the same task, which reveals a nondeterministic environment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass

from ors_gym.client.client import ORSClient
from ors_gym.errors import ORSError
from ors_gym.rollouts.exchange import observed_error
from ors_gym.rollouts.options import open_session
from ors_gym.trajectory import Trajectory
from ors_gym.types import Message, ToolOutput

__all__ = ["Replayed", "replay", "replay_episode"]

SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Replayed:
    """A replayed episode."""

    episode: Trajectory
    calls: int
    """Number of replayed calls, up to the first that returned something else."""
    difference: str | None = None
    """The first difference; None if everything was the same."""
    failure: str | None = None
    """Why the replay could not be completed."""

    @property
    def same(self) -> bool:
        """Whether every response was the same."""
        return self.difference is None and self.failure is None


async def replay(
    client: ORSClient,
    episodes: Iterable[Trajectory],
    *,
    secrets: Mapping[str, str] | None = None,
    toolset: str | None = None,
    max_concurrent: int = 16,
) -> AsyncGenerator[Replayed, None]:
    """Replay the calls of each episode, several episodes at once, and yield each result as it ends."""
    waiting = iter(episodes)
    running: set[asyncio.Task[Replayed]] = set()
    try:
        while True:
            while len(running) < max_concurrent and (episode := next(waiting, None)) is not None:
                work = replay_episode(client, episode, secrets=secrets, toolset=toolset)
                running.add(asyncio.create_task(work))
            if not running:
                return
            ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def replay_episode(
    client: ORSClient, episode: Trajectory, *, secrets: Mapping[str, str] | None = None, toolset: str | None = None
) -> Replayed:
    """Replay the calls of an episode in order, up to the first response that differs."""
    session = open_session(client, episode.task, {"secrets": secrets, "toolset": toolset})
    calls = 0
    try:
        async with session:
            prompt = episode.prompt
            if prompt and not _same_prompt(prompt, await session.get_messages()):
                return Replayed(episode, calls, "the prompt")
            for transition in episode.transitions:
                try:
                    output = await session.call_tool(transition.action.name, transition.action.input)
                except ORSError as error:
                    observed = observed_error(error)
                    if observed is None:
                        raise
                    output = observed
                calls += 1
                difference = _difference(transition.output, output)
                if difference is not None:
                    return Replayed(episode, calls, f"call {calls}, {transition.action.name}: {difference}")
    except ORSError as error:
        return Replayed(episode, calls, failure=str(error))
    return Replayed(episode, calls)


def _same_prompt(before: Iterable[Message], now: Iterable[Message]) -> bool:
    return [message.to_wire() for message in before] == [message.to_wire() for message in now]


def _difference(before: ToolOutput, now: ToolOutput) -> str | None:
    """What differs between two outputs of the same call."""
    for name in ("ok", "reward", "finished"):
        if getattr(before, name) != getattr(now, name):
            return f"{name} was {getattr(before, name)}, is {getattr(now, name)}"
    if before.text != now.text:
        return f"the text was {_short(before.text)}, is {_short(now.text)}"
    if [(block.data, block.mime_type) for block in before.images] != [
        (block.data, block.mime_type) for block in now.images
    ]:
        return "the images differ"
    return None


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…")
