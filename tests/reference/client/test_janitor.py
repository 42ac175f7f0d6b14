"""The process that deletes the sessions of a process that was killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ors_gym import ORSClient
from ors_gym.client.janitor import Janitor
from tests.support.ors_servers import RunningServer, serve_app
from tests.support.processes import wait_until
from tests.support.programs import is_gone

OWNER = """
import asyncio, os, sys, time
from ors_gym import ORSClient
from ors_gym.client.janitor import Janitor

async def main():
    client = ORSClient(sys.argv[1], journal=Janitor(sys.argv[1]))
    for _ in range(3):
        await client.session("counter", split="train", index=4).open()
    if sys.argv[2] == "a fork":
        child = os.fork()
        if not child:
            time.sleep(60)
        print(child)
    else:
        print(os.getpid())
    sys.stdout.flush()
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def running_owner(url: str, holds_the_pipe: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process with three sessions open, and the id of that, or of its fork."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", OWNER, url, holds_the_pipe]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, start_new_session=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        yield process, pid


async def open_and_forget(janitor: Janitor, url: str) -> None:
    """Open a session as a process does that then dies: its connections break, and nothing is deleted."""
    client = ORSClient(url, journal=janitor)
    await client.session("counter", split="train", index=4).open()
    await client.connection.pinger.aclose()
    await client.connection.sender.transport.aclose()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_the_sessions_of_a_killed_process_are_deleted(counter_server: RunningServer, sent: signal.Signals):
    with running_owner(counter_server.url, "nobody") as (process, _):
        assert len(counter_server.live_sessions) == 3

        os.killpg(process.pid, sent)

        wait_until(lambda: not counter_server.live_sessions)


def test_they_are_deleted_although_a_fork_of_the_process_lives_on(counter_server: RunningServer):
    with running_owner(counter_server.url, "a fork") as (process, fork):
        assert len(counter_server.live_sessions) == 3
        try:
            process.kill()

            wait_until(lambda: not counter_server.live_sessions)
        finally:
            os.kill(fork, signal.SIGKILL)


def test_it_knows_of_a_session_before_the_server_does_and_forgets_deleted_ones(
    counter_server: RunningServer, run: Callable
):
    async def conversation() -> None:
        async with ORSClient(counter_server.url, journal=janitor) as client:
            async with client.session("counter", split="train", index=0) as session:
                assert dict(janitor.sessions) == {session.id: {"X-Session-ID": session.id}}
            assert not janitor.sessions

    with Janitor(counter_server.url) as janitor:
        run(conversation())


def test_closing_it_deletes_what_was_left_open(counter_server: RunningServer, run: Callable):
    async def conversation() -> None:
        await open_and_forget(janitor, counter_server.url)

    with Janitor(counter_server.url) as janitor:
        run(conversation())
        assert len(counter_server.live_sessions) == 1

    assert not counter_server.live_sessions


def test_abandoned_sessions_are_deleted_at_once_and_others_kept(counter_server: RunningServer, run: Callable):
    async def conversation() -> None:
        async with ORSClient(counter_server.url, journal=janitor) as client:
            first, second = (client.session("counter", split="train", index=4) for _ in range(2))
            await first.open()
            await second.open()
            janitor.abandon([first.id])
            await asyncio.to_thread(wait_until, lambda: len(counter_server.live_sessions) == 1)
            assert list(counter_server.live_sessions) == [second.id]

    with Janitor(counter_server.url) as janitor:
        run(conversation())


def test_a_janitor_that_is_killed_is_started_again_and_knows_what_it_knew(counter_server: RunningServer, run: Callable):
    async def conversation() -> None:
        await open_and_forget(janitor, counter_server.url)
        killed = janitor.pid
        os.kill(killed, signal.SIGKILL)
        await asyncio.to_thread(wait_until, lambda: is_gone(killed))
        await open_and_forget(janitor, counter_server.url)
        assert janitor.pid != killed

    with Janitor(counter_server.url) as janitor:
        run(conversation())
        assert len(counter_server.live_sessions) == 2

    wait_until(lambda: not counter_server.live_sessions)


def test_the_key_is_not_in_its_command_line_or_environment(counter_server: RunningServer):
    with Janitor(counter_server.url, {"api_key": "sesame-4711"}) as janitor:
        janitor.note({"unknown": {}})
        for file in ("cmdline", "environ"):
            with open(f"/proc/{janitor.pid}/{file}", "rb") as content:
                assert b"sesame" not in content.read()
        janitor.deleted("unknown")


def test_options_that_no_client_takes_are_refused_at_once():
    with pytest.raises(ValueError, match="http"):
        Janitor("localhost:8080")
    with pytest.raises(ValueError, match="nonsense"):
        Janitor("http://localhost:8080", {"nonsense": 1})


def test_it_is_not_a_child_of_the_process_that_it_cleans_up_after(counter_server: RunningServer):
    with Janitor(counter_server.url) as janitor:
        janitor.note({"unknown": {}})
        parent = int(Path(f"/proc/{janitor.pid}/stat").read_text().rpartition(")")[2].split()[1])
        janitor.deleted("unknown")

    assert parent != os.getpid()


def test_no_process_is_started_for_a_client_without_sessions(counter_server: RunningServer):
    with Janitor(counter_server.url) as janitor:
        assert janitor.pid == 0


def test_a_process_with_many_open_files_can_close_it(counter_server: RunningServer):
    with ExitStack() as files, Janitor(counter_server.url) as janitor:
        for _ in range(1100):
            files.enter_context(open(os.devnull))
        janitor.note({"unknown": {}})
        janitor.deleted("unknown")


WORKER = """
import multiprocessing, os, sys
import gymnasium as gym, ors_gym

def play(url, ready, end):
    env = gym.make("ors_gym/ORS-v0", url=url, env_name="counter")
    env.reset(seed=0)
    ready.set()
    if end == "raises":
        raise SystemExit(3)
    if end != "returns":
        multiprocessing.Event().wait()

if __name__ == "__main__":
    method, end, url = sys.argv[1:]
    context = multiprocessing.get_context(method)
    own = gym.make("ors_gym/ORS-v0", url=url, env_name="counter")
    own.reset(seed=1)
    ready = context.Event()
    child = context.Process(target=play, args=(url, ready, end))
    child.start()
    ready.wait()
    if end in ("terminate", "kill"):
        getattr(child, end)()
    child.join()
    print("ended", flush=True)
    sys.stdin.readline()
    print(own.step("not a call")[4]["reason"], flush=True)
    own.close()
"""


@pytest.mark.parametrize("method", ["fork", "forkserver"])
@pytest.mark.parametrize("end", ["returns", "raises", "terminate", "kill"])
def test_a_worker_process_leaves_no_session_and_its_parent_keeps_its_own(
    counter_server: RunningServer, tmp_path: Path, method: str, end: str
):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(script), method, end, counter_server.url]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ended\n"
        wait_until(lambda: len(counter_server.live_sessions) == 1)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "no_tool_call\n"

    assert not counter_server.live_sessions


def test_the_sessions_cookies_go_with_its_deletion(run: Callable):
    """As a balancer that is sticky by cookie needs them."""
    seen: list[tuple[str, str]] = []

    async def app(scope, receive, send) -> None:
        headers = dict(scope["headers"])
        path = scope["path"]
        seen.append((path, headers.get(b"cookie", b"").decode()))
        answers = {"/list_environments": b'["counter"]', "/create_session": b'{"sid": "s-1"}'}
        cookies = {"/create_session": b"first=1; Path=/", "/create": b"second=2"}
        set_cookie = [(b"set-cookie", cookies[path])] if path in cookies else []
        await send({"type": "http.response.start", "status": 200, "headers": set_cookie})
        await send({"type": "http.response.body", "body": answers.get(path, b"{}")})

    async def conversation(url: str) -> None:
        await open_and_forget(janitor, url)

    with serve_app(app) as server, Janitor(server.url) as janitor:
        run(conversation(server.url))
    assert [cookie for path, cookie in seen if path == "/delete"] == ["first=1; second=2"]
