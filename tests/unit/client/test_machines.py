"""What other machines than Linux do, simulated."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading

import pytest

from ors_gym.client import janitor_process, portal
from ors_gym.client.janitor import Janitor
from ors_gym.client.portal import Portal


def test_waiting_in_steps_as_on_windows_gives_the_result_and_the_error(monkeypatch):
    monkeypatch.setattr(portal, "WAIT_SECONDS", 0.001)

    async def late() -> str:
        await asyncio.sleep(0.02)
        return "late"

    async def broken() -> None:
        await asyncio.sleep(0.02)
        raise TimeoutError("its own")

    with Portal() as one:
        assert one.run(late()) == "late"
        with pytest.raises(TimeoutError, match="its own"):
            one.run(broken())


def test_the_end_of_a_process_is_noticed_where_there_are_no_descriptors_of_processes(monkeypatch):
    """As on macOS."""
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    monkeypatch.setattr(janitor_process, "POLL_SECONDS", 0.01)
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    watching = threading.Thread(target=janitor_process._wait_for_end, args=(owner.pid,), daemon=True)
    watching.start()
    assert owner.stdin is not None
    owner.stdin.close()
    owner.wait()
    watching.join(60)
    assert not watching.is_alive()


def test_a_janitor_whose_pipe_broke_is_started_again(monkeypatch):
    """Windows says EINVAL for a broken pipe."""
    with Janitor("http://127.0.0.1:9") as janitor:
        janitor.note({"first": {}})
        first, process = janitor.pid, janitor._process
        assert process is not None

        def broken(line) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(process, "write", broken)
        janitor.note({"second": {}})
        assert janitor.pid not in (0, first)
        janitor.deleted("first", "second")
