"""Serve the sandbox: ``python server.py``, and on the reference SDK's server: ``python server.py --sdk``."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from ors_gym.types import Task, TextBlock, ToolOutput
from ors_gym_server import Environment, main, tool
from ors_gym_server.sandbox import E2BSandbox, LocalSandbox, Sandbox, SandboxLimits
from pydantic import BaseModel, Field

from tasks import MONTHS, sales_file, tasks

LIMITS = SandboxLimits(wall_seconds=20, cpu_seconds=10, memory_bytes=256 * 2**20, output_bytes=8_000)


class Command(BaseModel):
    """The input of the tool ``bash``."""

    command: str = Field(description="one line or a script, for bash")


class Answer(BaseModel):
    """The input of the tool ``submit``."""

    revenue: float


class MyEnvironment(Environment):
    """Answer a question about data with a shell. An instance is one episode of one task."""

    # ---- class methods: splits and tasks

    @classmethod
    def list_splits(cls) -> list[str]:
        """The splits of the tasks."""
        return list(MONTHS)

    @classmethod
    def list_tasks(cls, split: str) -> list[Task]:
        """The tasks of a split, always in the same order."""
        return tasks(split)

    # ---- an episode

    def __init__(self, task_spec: Task | None = None, secrets: Mapping[str, str] | None = None) -> None:
        super().__init__(task_spec, secrets)
        self.sandbox = _sandbox(self.secrets)

    async def setup(self) -> None:
        """Start the sandbox, and upload what the agent may see: the data, without the answers."""
        await self.sandbox.start()
        await self.sandbox.upload(sales_file(), "sales.csv")

    async def teardown(self) -> None:
        """Close the sandbox. This always runs, even if ``setup`` failed."""
        await self.sandbox.close()

    def get_prompt(self) -> str:
        """The first message to the agent."""
        return (
            f"What was the revenue of the store in {self.task_spec['store']} in {self.task_spec['month']}? The orders "
            "are in sales.csv; some were exported twice and count once, and what was given back has a negative "
            "quantity. Look at the file with the tool bash, and submit the revenue with two decimals."
        )

    @tool
    async def bash(self, params: Command) -> ToolOutput:
        """Run a command of bash. Files stay from command to command, processes do not; there is no network."""
        result = await self.sandbox.run(["/bin/bash", "-c", params.command])
        parts = [result.stdout, result.stderr]
        if result.truncated:
            parts.append("[there was more]")
        if result.timed_out:
            parts.append(f"[stopped after {LIMITS.wall_seconds:g} seconds]")
        elif result.exit_code:
            parts.append(f"[exit code {result.exit_code}]")
        return ToolOutput((TextBlock("\n".join(part.rstrip() for part in parts if part) or "[no output]"),))

    @tool(exclusive=True)  # waits for running commands
    async def submit(self, params: Answer) -> ToolOutput:
        """Submit the revenue. This ends the episode."""
        right = abs(params.revenue - float(self.task_spec["answer"])) < 0.005
        message = "That is right." if right else "That is not right."
        return ToolOutput((TextBlock(message),), reward=float(right), finished=True)


def _sandbox(secrets: Mapping[str, str]) -> Sandbox:
    """E2B if the session has a key for it, else this machine.

    If its Linux cannot isolate programs, ``setup`` fails and says why: an agent's code never runs next to the answers
    by accident.
    """
    if key := secrets.get("E2B_API_KEY"):
        return E2BSandbox(LIMITS, api_key=key)
    return LocalSandbox(LIMITS)


if __name__ == "__main__":
    if problem := LocalSandbox.problem(LIMITS):
        print(f"Only sessions with the secret E2B_API_KEY work here: {problem}", file=sys.stderr)
    main(MyEnvironment)
