"""An ORS environment of two turns, on the reference SDK: look which button is live, then press that one.

Serve it with ``python examples/buttons.py --port 8080``, and play it with ``ors-gym play http://127.0.0.1:8080``.

Nothing but ``look`` says which of the three buttons is live, and ``press`` pays nothing before it: a policy that
ignores what it observes presses the right one a third of the time at best.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import uvicorn
from openreward.environments import Environment, Server, TextBlock, ToolOutput, tool
from pydantic import BaseModel, Field

COLORS = ("red", "green", "blue")
SIZES = {"train": 512, "test": 128}


class Look(BaseModel):
    """Nothing to say."""


class Press(BaseModel):
    """Which button to press."""

    color: Literal["red", "green", "blue"] = Field(description="The button's color")


class Buttons(Environment):
    """One episode: one live button."""

    def __init__(self, task_spec: Mapping[str, Any], secrets: Mapping[str, str] | None = None) -> None:
        super().__init__(task_spec, dict(secrets or {}))
        self.looked = False

    @classmethod
    def list_splits(cls) -> Sequence[str]:
        """Two splits, of tasks of their own."""
        return list(SIZES)

    @classmethod
    def list_tasks(cls, split: str) -> Sequence[Mapping[str, Any]]:
        """The tasks of a split: which button is live in each."""
        draw = random.Random(split)
        return [{"id": f"{split}-{index}", "color": draw.choice(COLORS)} for index in range(SIZES[split])]

    async def get_prompt(self) -> Sequence[TextBlock]:
        """What the agent reads first."""
        return [TextBlock(text="find the button .")]

    @tool
    async def look(self, _: Look) -> ToolOutput:
        """Look which button is live."""
        self.looked = True
        return ToolOutput(blocks=[TextBlock(text=f"it is {self.task_spec['color']} .")], reward=0.0)

    @tool
    async def press(self, pressed: Press) -> ToolOutput:
        """Press a button. The live one pays 1, any other 0. You must look first."""
        if not self.looked:
            return ToolOutput(blocks=[TextBlock(text="error : look first .")], reward=0.0)
        right = pressed.color == self.task_spec["color"]
        text = "ok ." if right else "wrong ."
        return ToolOutput(blocks=[TextBlock(text=text)], reward=float(right), finished=True)


def _exit_with_parent() -> None:
    """Exit when standard input closes: the process that started us is gone."""
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--exit-with-parent", action="store_true", help="exit when standard input closes")
    arguments = parser.parse_args()
    if arguments.exit_with_parent:
        threading.Thread(target=_exit_with_parent, daemon=True).start()
    uvicorn.run(Server([Buttons]).app, host=arguments.host, port=arguments.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
