"""Play one episode and print it: ``python rollout.py http://127.0.0.1:8080``. Exit status 0: the episode ended."""

from __future__ import annotations

import argparse
import asyncio
import os

from ors_gym import EpisodeRunner, ORSClient, RolloutLimits, TaskRef, Trajectory, trajectory_return

from player import Player


async def play(url: str, split: str | None, index: int, max_turns: int) -> Trajectory:
    """One episode of one task, played by the player."""
    async with ORSClient(url, api_key=os.environ.get("ORS_API_KEY")) as client:
        split = split or (await client.list_splits("myenvironment"))[0].name
        runner = EpisodeRunner(client, Player(), limits=RolloutLimits(max_turns))
        return await runner.run_episode(TaskRef("myenvironment", split, index))


def main() -> int:
    """Play and print an episode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8080")
    parser.add_argument("--split", help="default: the first")
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--max-turns", type=int, default=1000, help="truncates longer episodes, with exit status 1")
    arguments = parser.parse_args()
    episode = asyncio.run(play(arguments.url, arguments.split, arguments.index, arguments.max_turns))
    for message in episode.prompt:
        print(message.text)
    for transition in episode.transitions:
        print(f"\n> {transition.action.name} {dict(transition.action.input)}\n{transition.output.text}")
    print(f"\n{episode.stop_reason}, return {trajectory_return(episode)}", episode.failure or "")
    return 0 if episode.terminated else 1


if __name__ == "__main__":
    raise SystemExit(main())
