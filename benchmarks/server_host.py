"""An environment with instant tools on either server: ``server_host.py ours|reference PORT``.

At the end, on SIGTERM, it prints the garbage collector's pauses.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from typing import Any

os.environ["OPENREWARD_LOG_LEVEL"] = "CRITICAL"  # read when the SDK is imported

import uvicorn
from openreward.environments import Environment, Server, TextBlock, ToolOutput, tool
from pydantic import BaseModel

MEGABYTE = "a short line of text, as in a file\n" * (1_000_000 // 35)


class Line(BaseModel):
    """The text to return."""

    text: str


class Bench(Environment):
    """Instant tools."""

    @classmethod
    def list_splits(cls) -> list[str]:
        """One split."""
        return ["train"]

    @classmethod
    def list_tasks(cls, split: str) -> list[dict[str, Any]]:
        """One task."""
        return [{}]

    def get_prompt(self) -> list[TextBlock]:
        """The same for every task."""
        return [TextBlock(text="Work.")]

    @tool
    async def quick(self, params: Line) -> ToolOutput:
        """Answer immediately."""
        return ToolOutput(blocks=[TextBlock(text=params.text)], reward=0.0)

    @tool
    def plain(self, params: Line) -> ToolOutput:
        """Answer immediately, synchronously."""
        return ToolOutput(blocks=[TextBlock(text=params.text)], reward=0.0)

    @tool
    async def big(self) -> ToolOutput:
        """Answer a megabyte."""
        return ToolOutput(blocks=[TextBlock(text=MEGABYTE)])


pauses: list[float] = []
began = 0.0


def note(phase: str, info: dict[str, int]) -> None:
    """Time one pause."""
    global began
    if phase == "start":
        began = time.perf_counter()
    else:
        pauses.append(time.perf_counter() - began)


if __name__ == "__main__":
    kind, port = sys.argv[1], int(sys.argv[2])
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again after stopping
    if kind == "ours":
        from ors_gym_server import serve

        serve([Bench], port=port, started=lambda _: gc.callbacks.append(note))
    else:
        gc.callbacks.append(note)
        # Server.run does the same, but configures logging and listens on all interfaces.
        app = Server([Bench]).app
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="critical", access_log=False, timeout_keep_alive=60)
    print(json.dumps({"gc max ms": max(pauses, default=0.0) * 1e3, "gc total ms": sum(pauses) * 1e3}), flush=True)
