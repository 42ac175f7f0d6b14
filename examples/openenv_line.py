"""An environment written with OpenEnv, as ORS: its tool has the fields of its action. Needs the extra `openenv`.

ors-gym serve openenv_line:Line
ors-gym rollout http://127.0.0.1:8080 --policy openenv_line:Solver
python train_grpo.py --url http://127.0.0.1:8080 --env line --model Qwen/Qwen3-0.6B --max-turns 12
"""

from __future__ import annotations

import re
from typing import Any, Literal

from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State
from pydantic import Field

from ors_gym import Reply, ToolCall, Turn
from ors_gym_server import from_openenv, main


class Walk(Action):  # type: ignore[misc]  # openenv ships no types
    """Walk along the line."""

    direction: Literal["left", "right"] = Field(description="Where to")


class Place(Observation):  # type: ignore[misc]
    """Where you are, and where the goal is."""

    place: int
    goal: int


class LineEnvironment(Environment):  # type: ignore[misc]
    """Walk to the goal, whose position depends on the seed."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed: int | None = None, episode_id: str | None = None, **options: Any) -> Place:
        """Start at 0."""
        self.place, self.goal = 0, (2 + (seed or 0) % 4) * (-1 if (seed or 0) % 2 else 1)
        return Place(place=0, goal=self.goal, done=False, reward=None)

    def step(self, action: Walk, timeout_s: float | None = None, **options: Any) -> Place:
        """Walk one step."""
        self.place += 1 if action.direction == "right" else -1
        there = self.place == self.goal
        return Place(place=self.place, goal=self.goal, done=there, reward=float(there))

    @property
    def state(self) -> State:
        """The state, without anything hidden from the agent."""
        return State()


Line = from_openenv(LineEnvironment, action=Walk, name="line")


class Solver:
    """Walks towards the goal."""

    async def act(self, turn: Turn) -> Reply:
        """Answer a turn."""
        goal = int(re.findall(r"goal\D*?(-?\d+)", turn.observation)[-1])
        (tool,) = turn.tools.tools
        return Reply(tool_calls=(ToolCall(tool.name, {"direction": "right" if goal > 0 else "left"}),))


if __name__ == "__main__":
    main(Line)
