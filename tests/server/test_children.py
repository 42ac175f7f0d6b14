"""Processes that environments start, and the server as the first process of a container."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ors_gym import ORSClient
from tests.support.processes import wait_until
from tests.support.programs import is_gone, running_server

quarry = functools.partial(running_server, "tests.support.pool_server")


async def called(url: str, name: str) -> list[int]:
    async with ORSClient(url) as client:
        sessions = [client.session("quarry", split="train", index=index) for index in range(2)]
        async with sessions[0], sessions[1]:
            return [int((await session.call_tool(name, {})).text) for session in sessions]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_server_ends_with_the_processes_that_its_environments_started(run: Callable, num_workers: int):
    with quarry(num_workers) as (process, url):
        children = run(called(url, "dig"))
        process.terminate()
        process.communicate(timeout=60)
    wait_until(lambda: all(map(is_gone, children)))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_processes_of_environments_do_not_keep_the_port_of_a_server_that_was_killed(run: Callable, num_workers: int):
    with quarry(num_workers, "setsid") as (process, url):
        groups = {os.getpgid(child) for child in run(called(url, "dig"))}  # with all that wait for work for ever
        assert os.getpgrp() not in groups
        process.kill()
        process.wait(30)
        try:
            wait_until(lambda: _is_free(url))
        finally:
            for group in groups:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)


def _is_free(url: str) -> bool:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind((host, int(port)))
            other.listen()
        except OSError:
            return False
    return True


NO_CHILD_SIGNALS = """
import signal
def never(signals):
    while (signum := waited(signals)) == signal.SIGCHLD:
        pass
    return signum
waited, signal.sigwait = signal.sigwait, never  # what macOS does with a signal of default action
"""


def test_where_no_wait_reports_a_dead_child_workers_are_replaced_and_the_server_ends(run: Callable):
    async def conversation(url: str) -> None:
        async with ORSClient(url) as client:
            session = client.session("mill", split="train", index=0)
            await session.open()
            worker = int((await session.call_tool("where", {})).text)
            os.kill(worker, signal.SIGKILL)
            while True:  # until both workers take sessions, the new one among them
                fresh = [client.session("mill", split="train", index=index) for index in range(2)]
                await asyncio.gather(*(each.open() for each in fresh))
                homes = {(await each.call_tool("where", {})).text for each in fresh}
                await asyncio.gather(*(each.close() for each in fresh))
                if len(homes) == 2 and str(worker) not in homes:
                    return

    with running_server("tests.support.worker_server", 2, setup=NO_CHILD_SIGNALS) as (process, url):
        run(conversation(url))
        process.terminate()
        process.communicate(timeout=60)


def _may_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _may_unshare(), reason="needs to make a PID namespace: run as root")
@pytest.mark.parametrize("num_workers", [1, 2])
def test_as_the_first_process_of_a_container_the_server_leaves_no_zombie(run: Callable, num_workers: int):
    with quarry(num_workers, "unshare", "--pid", "--fork", "--mount-proc") as (
        process,
        url,
    ):
        for _ in range(3):
            run(called(url, "leave"))
        (init,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()

        def num_zombies() -> int:
            children = Path(f"/proc/{init}/task/{init}/children").read_text().split()
            return sum(is_gone(int(child)) for child in children)

        wait_until(lambda: num_zombies() == 0 and len(_children(init)) == 1)
        os.kill(int(init), signal.SIGTERM)
        process.communicate(timeout=60)
    assert is_gone(int(init))


def _children(pid: str) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
