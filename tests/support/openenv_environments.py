"""Environments written with OpenEnv's SDK, of each kind that it has."""

from __future__ import annotations

from typing import Any, Literal

from fastmcp import FastMCP
from mcp.types import ImageContent, TextContent
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.types import Action, Observation, State
from pydantic import Field

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="


class WalkAction(Action):
    """Walk along the line."""

    direction: Literal["left", "right"] = Field(description="Where to")
    steps: int = Field(1, ge=1, le=3)


class WalkObservation(Observation):
    place: int
    view: list[int]


class WalkState(State):
    goal: int = 0


class WalkEnvironment(Environment[WalkAction, WalkObservation, WalkState]):
    """Walk to the goal, which the seed places."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, length: int = 10) -> None:
        super().__init__()
        self.length = length

    def reset(self, seed: int | None = None, episode_id: str | None = None, start: int = 0) -> WalkObservation:
        self.place, self.goal = start, 2 + (seed or 0) % 4
        self.count = 0
        return self.look()

    def step(self, action: WalkAction, timeout_s: float | None = None, **kwargs: Any) -> WalkObservation:
        if abs(self.place) > self.length:
            raise RuntimeError("fell off the line")
        self.place += action.steps * (1 if action.direction == "right" else -1)
        self.count += 1
        return self.look()

    def look(self) -> WalkObservation:
        there = self.place == self.goal
        reward = None if self.count == 0 else float(there)
        return WalkObservation(place=self.place, view=[self.place - 1, self.place + 1], done=there, reward=reward)

    @property
    def state(self) -> WalkState:
        return WalkState(step_count=self.count, goal=self.goal)


class QuizAction(Action):
    answer: int


class QuizObservation(Observation):
    text: str


class QuizEnvironment(Environment):
    """Sums, as a set of tasks. Asynchronous, and one session at a time."""

    async def reset_async(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        task = self.get_task(kwargs["split"], kwargs["index"])
        self.task = task
        return QuizObservation(text=f"What is {task['a']} + {task['b']}?")

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        raise NotImplementedError

    async def step_async(self, action: QuizAction, timeout_s: float | None = None, **kwargs: Any) -> Observation:
        right = action.answer == self.task["a"] + self.task["b"]
        return QuizObservation(text="Right!" if right else "Wrong.", done=True, reward=right)

    def step(self, action: QuizAction, timeout_s: float | None = None, **kwargs: Any) -> Observation:
        raise NotImplementedError

    @property
    def state(self) -> State:
        return State(step_count=0)

    def list_splits(self) -> list[Any]:
        return ["train", {"name": "exam", "type": "test"}]

    def list_tasks(self, split: str) -> list[Any]:
        return [self.get_task(split, index) for index in range(self.num_tasks(split))]

    async def num_tasks(self, split: str) -> int:
        return 3 if split == "train" else 1

    def get_task(self, split: str, index: int) -> dict[str, int]:
        return {"a": index, "b": 1 if split == "train" else 100}


class EchoEnvironment(MCPEnvironment):
    """Repeats what it is told, by MCP tools."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        server = FastMCP("echo")

        @server.tool
        def echo(message: str, times: int = 1) -> str:
            """Say the message again."""
            if times > 3:
                raise ValueError("that is tiring")
            self.said += times
            return message * times

        @server.tool
        def draw() -> list[TextContent | ImageContent]:
            """Draw something."""
            return [
                TextContent(type="text", text="a dot"),
                ImageContent(type="image", data=PIXEL, mimeType="image/png"),
            ]

        super().__init__(server)
        self.said = 0

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        self.said = 0
        return Observation(metadata={"status": "ready"})

    async def step_async(self, action: Action, timeout_s: float | None = None, **kwargs: Any) -> Observation:
        """Rewards what was said, as an environment adds rewards to its tools' results."""
        observation = await super().step_async(action, timeout_s, **kwargs)
        observation.reward, observation.done = float(self.said), self.said >= 5
        return observation

    def _step_impl(self, action: Action, timeout_s: float | None = None, **kwargs: Any) -> Observation:
        raise TypeError(f"no such action: {action}")

    @property
    def state(self) -> State:
        return State(step_count=self.said)
