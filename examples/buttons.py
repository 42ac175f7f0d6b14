"""An ORS environment with two turns: look which button is live, then press it.

Serve it with ``python examples/buttons.py --port 8080``, and play it with ``ors-gym play http://127.0.0.1:8080``.

Only ``look`` tells which of the three buttons is live, and ``press`` gives no reward before it: a policy that ignores
its observations presses the right one at most a third of the time.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from ors_gym import TextBlock, ToolOutput
from ors_gym_server import Environment, serve, tool

COLORS = ("red", "green", "blue")
SIZES = {"train": 512, "test": 128}


class Press(BaseModel):
    """Which button to press."""

    color: Literal["red", "green", "blue"] = Field(description="The button's color")


class Buttons(Environment):
    """One episode: one live button."""

    def __init__(self, task_spec: Mapping[str, Any], secrets: Mapping[str, str] | None = None) -> None:
        super().__init__(task_spec, secrets)
        self.looked = False

    @classmethod
    def list_splits(cls) -> Sequence[str]:
        """Two splits with different tasks."""
        return list(SIZES)

    @classmethod
    def list_tasks(cls, split: str) -> Sequence[Mapping[str, Any]]:
        """The tasks of a split: which button is live in each."""
        draw = random.Random(split)
        return [{"id": f"{split}-{index}", "color": draw.choice(COLORS)} for index in range(SIZES[split])]

    def get_prompt(self) -> str:
        """The prompt."""
        return "find the button ."

    @tool
    async def look(self) -> ToolOutput:
        """Look which button is live."""
        self.looked = True
        return _says(f"it is {self.task_spec['color']} .")

    @tool
    async def press(self, pressed: Press) -> ToolOutput:
        """Press a button. The live one pays 1, any other 0. You must look first."""
        if not self.looked:
            return _says("error : look first .")
        right = pressed.color == self.task_spec["color"]
        return _says("ok ." if right else "wrong .", reward=float(right), finished=True)


def _says(text: str, reward: float = 0.0, finished: bool = False) -> ToolOutput:
    return ToolOutput((TextBlock(text),), reward, finished)


def _exit_with_parent() -> None:
    """Exit when standard input closes: the parent process has ended."""
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
    serve([Buttons], host=arguments.host, port=arguments.port)


if __name__ == "__main__":
    main()
