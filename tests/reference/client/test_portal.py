"""The portal: synchronous use from anywhere, and a clear error where it cannot work."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ors_gym.client.portal import Portal, shared_portal
from ors_gym.errors import PortalError
from tests.support.environments import Counter


def test_a_coroutine_runs_on_the_portals_thread_and_gives_its_result():
    async def where() -> str:
        return threading.current_thread().name

    with Portal() as portal:
        assert portal.run(where()) == "ors-gym portal"
        assert portal.submit(where()).result(10) == "ors-gym portal"


def test_what_a_coroutine_raises_is_raised():
    async def fail() -> None:
        raise LookupError("mine")

    with Portal() as portal, pytest.raises(LookupError, match="mine"):
        portal.run(fail())


def test_it_works_inside_a_running_event_loop_as_in_a_notebook(counter_server):
    async def cell() -> tuple[str, ...]:
        with Portal() as portal:
            return portal.run(portal.client(counter_server.url).list_environments())

    assert asyncio.run(cell()) == ("counter",)


def test_many_threads_share_one_portal_and_one_client(counter_server):
    with Portal() as portal:

        def episode(index: int) -> Any:
            session = portal.client(counter_server.url).session("counter", split="train", index=index % 5)
            portal.run(session.open())
            output = portal.run(session.call_tool("add"))
            portal.run(session.close())
            return output.text

        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(episode, range(24))) == {"count 1"}
    assert counter_server.live_sessions == {}


def test_the_same_server_and_options_mean_the_same_client():
    with Portal() as portal:
        client = portal.client("http://localhost:1", api_key="k", headers={"X-A": "b"})
        assert portal.client("http://localhost:1", headers={"X-A": "b"}, api_key="k") is client
        assert portal.client("http://localhost:1", api_key="other", headers={"X-A": "b"}) is not client


def test_closing_deletes_the_sessions_that_are_left_and_cancels_what_runs(start_server):
    server = start_server(Counter)
    portal = Portal()
    client = portal.client(server.url)
    for index in range(3):
        portal.run(client.session("counter", split="train", index=index).open())
    waiting = portal.submit(asyncio.sleep(3600))
    assert len(server.live_sessions) == 3
    portal.close()
    portal.close()
    assert server.live_sessions == {}
    assert waiting.cancelled()
    with pytest.raises(PortalError, match="closed"):
        portal.run(asyncio.sleep(0))


def test_waiting_for_itself_is_an_error_and_not_a_deadlock():
    with Portal() as portal:

        async def inside() -> None:
            portal.run(asyncio.sleep(0))

        with pytest.raises(PortalError, match="await it"):
            portal.run(inside())

        async def close() -> None:
            portal.close()

        with pytest.raises(PortalError, match="wait for itself"):
            portal.run(close())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_after_a_fork_the_childs_use_is_a_clear_error_and_its_own_portal_works():
    portal = shared_portal()
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def child() -> None:
        try:
            portal.run(asyncio.sleep(0))
        except PortalError as error:
            answers.put(str(error))
        portal.close()  # the parent's to close
        answers.put(shared_portal().run(asyncio.sleep(0, "fresh")))

    process = context.Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert "before this process forked" in answers.get()
    assert answers.get() == "fresh"
    assert portal.run(asyncio.sleep(0, "still here")) == "still here"


def test_an_interrupt_cancels_the_work_and_waits_until_it_has_cleaned_up():
    script = textwrap.dedent("""
        import asyncio
        from ors_gym.client.portal import shared_portal

        async def work():
            try:
                print("started", flush=True)
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.05)
                print("cleaned up", flush=True)

        try:
            shared_portal().run(work())
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """)
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "cleaned up\ninterrupted\n"
    assert process.returncode == 0


def test_an_interrupt_before_the_submission_returns_cancels_the_work_too(monkeypatch):
    cleaned_up: list[bool] = []
    running = threading.Event()

    async def work() -> None:
        try:
            running.set()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            cleaned_up.append(True)

    with Portal() as portal:
        submit = portal.submit

        def interrupted(coroutine: Any) -> None:
            submit(coroutine)
            assert running.wait(60)
            raise KeyboardInterrupt

        monkeypatch.setattr(portal, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            portal.run(work())
    assert cleaned_up == [True]


def test_sessions_left_open_at_exit_are_deleted(counter_server):
    script = textwrap.dedent(f"""
        from ors_gym.client.portal import shared_portal
        portal = shared_portal()
        client = portal.client({counter_server.url!r})
        portal.run(client.session("counter", split="train", index=0).open())
        print("open")
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "open\n"
    assert done.stderr == ""
    assert counter_server.live_sessions == {}
