"""Processes of this machine, as /proc shows them, and waiting for them."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def sleeping(duration: str) -> bool:
    """Whether a process of this machine sleeps for just that time. One that was killed may take a while to end."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it ended meanwhile
                if (entry / "cmdline").read_bytes() == f"sleep\0{duration}\0".encode() and not killed(entry):
                    return True
    return False


def killed(entry: Path) -> bool:
    """Whether SIGKILL is pending: the process runs no more."""
    pending = re.findall(r"(?:SigPnd|ShdPnd):\t(\w+)", (entry / "status").read_text())
    return any(int(signals, 16) & 1 << (signal.SIGKILL - 1) for signals in pending)


def wait_until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until ``condition`` holds; it is an error if it does not come to hold in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {condition}")
        threading.Event().wait(0.02)
