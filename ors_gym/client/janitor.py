"""A process beside this one that deletes the sessions which nobody else will: their owner was killed.

A killed process cleans up after nobody. So the ids of its sessions are written to the pipe of a small second process
*before* the sessions are created; when the pipe ends, whichever way, the second process deletes what is left and goes::

    with Janitor(url) as janitor:
        client = ORSClient(url, journal=janitor)

What it cannot do is outlive the machine: those sessions are left to the server's expiry.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import pickle
import select
import subprocess
import sys
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from ors_gym.client.client import ORSClient
from ors_gym.client.connection import DELETION_DELAYS_SECONDS
from ors_gym.errors import ORSError

__all__ = ["Janitor"]

CLOSING_SECONDS = 2.0
"""How long closing waits for the last deletions; they go on after that."""
PARENT_SECONDS = 1.0
"""How often the janitor looks whether its parent lives: a fork of it may hold the pipe open after its death."""
DELETIONS_AT_ONCE = 64
LINE_BYTES = 2**26

logger = logging.getLogger(__name__)


class Janitor:
    """Keeps a client's sessions as its :class:`~ors_gym.client.SessionJournal`, or those of any number of processes.

    Args:
        url: the ORS server.
        client_options: further arguments of the ``ORSClient`` that deletes (``api_key``, …); they must be picklable.
    """

    def __init__(self, url: str, client_options: Mapping[str, Any] | None = None) -> None:
        options = dict(client_options or {})
        ORSClient(url, **options)  # raises here what it would raise there
        self._client = base64.b64encode(pickle.dumps((url, options)))
        self._sessions: dict[str, str] = {}
        self._closed = False
        self._process = self._start()

    @property
    def sessions(self) -> Mapping[str, str]:
        """The sessions that there may be: environments' names by session id."""
        return self._sessions

    @property
    def pid(self) -> int:
        """The process that deletes."""
        return self._process.pid

    async def opening(self, env_name: str, session_id: str) -> None:
        """Note a session that is about to be created."""
        self.note({session_id: env_name})

    def note(self, sessions: Mapping[str, str]) -> None:
        """Note sessions, environments' names by session id, that may exist from now on."""
        self._sessions.update(sessions)
        self._write({"sessions": dict(sessions)})

    def deleted(self, *session_ids: str) -> None:
        """Forget sessions that the server certainly no longer has."""
        for sid in session_ids:
            self._sessions.pop(sid, None)
        self._write({"deleted": session_ids})

    def abandon(self, session_ids: Iterable[str]) -> None:
        """Delete sessions now: their owner is dead."""
        self._write({"abandoned": list(session_ids)})

    def close(self) -> None:
        """Have every session deleted that is left. What takes longer than 2 s goes on in the background."""
        if self._closed:
            return
        self._closed = True
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead
            process.stdin.close()
        if select.select([process.stdout], [], [], CLOSING_SECONDS + 1.0)[0]:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
        process.stdout.close()
        process.returncode = process.returncode or 0  # left to itself: no warning that it still runs

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, note: Mapping[str, Any]) -> None:
        if self._closed:
            return
        try:
            self._send(json.dumps(note).encode())
        except BrokenPipeError:  # somebody killed it
            logger.warning("the process that deletes sessions died and is started again")
            self._drop_process()
            self._process = self._start()
            self._send(json.dumps({"sessions": self._sessions}).encode())
            self._send(json.dumps(note).encode())

    def _drop_process(self) -> None:
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", "from ors_gym.client.janitor import main; main()", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is for this process only
        )
        self._process = process
        self._send(self._client)
        return process

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()


class _Deletions:
    """The janitor's own side: what it was told, and what it deletes."""

    def __init__(self, client: ORSClient) -> None:
        self.sessions: dict[str, str] = {}
        self.under_way: set[asyncio.Task[None]] = set()
        self.failed: list[ORSError] = []
        self._client = client
        self._places = asyncio.Semaphore(DELETIONS_AT_ONCE)

    def read(self, line: bytes) -> None:
        """Take a note."""
        note = json.loads(line)
        self.sessions.update(note.get("sessions", {}))
        for sid in note.get("deleted", ()):
            self.sessions.pop(sid, None)
        self.start(note.get("abandoned", ()))

    def start(self, session_ids: Iterable[str]) -> None:
        """Begin to delete these."""
        for sid in session_ids:
            if sid in self.sessions:
                task = asyncio.create_task(self._delete(sid, self.sessions.pop(sid)))
                self.under_way.add(task)
                task.add_done_callback(self.under_way.discard)

    async def _delete(self, sid: str, env_name: str) -> None:
        """Delete a session; look again for one that is not there: its creation may be under way."""
        failure = None
        for delay in DELETION_DELAYS_SECONDS:
            await asyncio.sleep(delay)
            async with self._places:
                try:
                    failure = None
                    if await self._client.delete_session(env_name, sid):
                        return
                except ORSError as error:
                    failure = error
        if failure is not None:
            self.failed.append(failure)


async def _main(parent: int) -> None:
    loop = asyncio.get_running_loop()
    notes = asyncio.StreamReader(LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(notes), sys.stdin)
    url, client_options = pickle.loads(base64.b64decode(await notes.readline()))
    watching = asyncio.create_task(_end_with(parent, notes))
    async with ORSClient(url, **client_options) as client:
        deletions = _Deletions(client)
        while (line := await notes.readline()).endswith(b"\n"):  # a line that was cut off had no reader yet
            deletions.read(line)
        watching.cancel()
        deletions.start(list(deletions.sessions))
        if deletions.under_way:
            await asyncio.wait(deletions.under_way, timeout=CLOSING_SECONDS)
        os.close(sys.stdout.fileno())  # says to who waits that it need not wait on
        if deletions.under_way:
            await asyncio.wait(deletions.under_way)
    if deletions.failed:
        logger.warning("%d sessions were not deleted: %s", len(deletions.failed), deletions.failed[-1])


async def _end_with(parent: int, notes: asyncio.StreamReader) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110  (there is no event for it)
        await asyncio.sleep(PARENT_SECONDS)
    notes.feed_eof()


def main() -> None:
    """Be the janitor of the process whose id is the argument."""
    asyncio.run(_main(int(sys.argv[1])))
