"""A second process that deletes the sessions of a process that was killed.

Session ids are written to the pipe of a small second process *before* the sessions are created. When the pipe or its
owner ends, for any reason, the second process deletes the remaining sessions and exits::

    with Janitor(url) as janitor:
        client = ORSClient(url, journal=janitor)

Environments, ``ORSRollouts`` and ``RolloutPool`` each have one. After the loss of the whole machine, sessions end by
the server's expiry.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ors_gym.client import janitor_process
from ors_gym.client.client import ORSClient
from ors_gym.http.proxies import proxy_for
from ors_gym.http.tls import Certificate, Verify

__all__ = ["Janitor"]

logger = logging.getLogger(__name__)


class Janitor:
    """Keeps a client's sessions as its :class:`~ors_gym.client.SessionJournal`, or those of any number of processes.

    Its process starts with the first session, outlives this one, and is not its child.

    Args:
        url: the ORS server.
        client_options: further arguments of the sessions' :class:`~ors_gym.ORSClient` (``api_key``, …).
    """

    def __init__(self, url: str, client_options: Mapping[str, Any] | None = None) -> None:
        options = dict(client_options or {})
        connection = ORSClient(url, **options).connection  # raises here what it would raise there
        verify: Verify = options.get("verify", True)
        cert: Certificate | None = options.get("cert")
        files = cert if isinstance(cert, tuple) else () if cert is None else (cert,)
        self._server = {
            "base": connection.session_base,
            "headers": dict(connection.headers),
            "verify": str(verify) if isinstance(verify, str | os.PathLike) else verify is not False,
            "cert": [os.fspath(file) for file in files],
            "direct": proxy_for(connection.session_base) is None,
        }
        self._sessions: dict[str, Mapping[str, str]] = {}
        self._owner = os.getpid()
        self._closed = False
        self._lock = threading.Lock()
        self._process: _Process | None = None

    @property
    def sessions(self) -> Mapping[str, Mapping[str, str]]:
        """The sessions that may exist: by id, the headers of their requests."""
        return self._sessions

    @property
    def pid(self) -> int:
        """The id of the second process; 0 before the first session."""
        return 0 if self._process is None else self._process.pid

    async def opening(self, session_id: str, headers: Mapping[str, str]) -> None:
        """Note a session that is about to be created."""
        if self._process is None:  # starting it takes a moment
            await asyncio.to_thread(self.note, {session_id: headers})
        else:
            self.note({session_id: headers})

    def note(self, sessions: Mapping[str, Mapping[str, str]]) -> None:
        """Note sessions that may exist from now on: by id, the headers of their requests."""
        self._write({"sessions": dict(sessions)})

    def deleted(self, *session_ids: str) -> None:
        """Forget sessions that the server certainly no longer has."""
        self._write({"deleted": session_ids})

    def abandon(self, session_ids: Iterable[str]) -> None:
        """Delete sessions now: their owner is dead."""
        self._write({"abandoned": list(session_ids)})

    def close(self) -> None:
        """Delete every session that is left. After 2 s the deletions continue in the background."""
        with self._lock:
            if self._closed or self._owner != os.getpid():
                return
            self._closed = True
            if self._process is not None:
                self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, note: Mapping[str, Any]) -> None:
        with self._lock:
            if self._closed:
                return
            known = dict(self._sessions)
            self._sessions.update(note.get("sessions", {}))
            for sid in note.get("deleted", ()):
                self._sessions.pop(sid, None)
            if self._process is None:
                if not self._sessions:
                    return
                self._process = _Process(self._server, known)
            try:
                self._process.write(note)
            except OSError:  # it was killed; Windows says EINVAL for a broken pipe
                logger.warning("the process that deletes sessions died and is started again")
                self._process.close(wait=False)
                self._process = _Process(self._server, known)
                self._process.write(note)


class _Process:
    """Start the second process, and a thread that notices its end."""

    def __init__(self, server: Mapping[str, Any], sessions: Mapping[str, Mapping[str, str]]) -> None:
        script = Path(janitor_process.__file__)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process only
        )
        self.pid = 0
        self._started = threading.Event()
        self._ended = threading.Event()
        threading.Thread(target=self._listen, name="ors-gym janitor", daemon=True).start()
        self._started.wait()  # until it has left this process's children, it would be killed with them
        self.write(server)
        self.write({"sessions": dict(sessions)})

    def write(self, line: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        self._process.stdin.flush()

    def close(self, *, wait: bool = True) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it is dead
            self._process.stdin.close()
        if wait:
            self._ended.wait(janitor_process.CLOSING_SECONDS + 1.0)

    def _listen(self) -> None:
        """Read the process's id, then wait for the end of its output: it is about to exit."""
        assert self._process.stdout is not None
        with self._process.stdout as output:
            self.pid = int(output.readline() or 0)
            self._started.set()
            self._process.wait()  # the first of the two processes ends at once
            output.read()
        self._ended.set()
