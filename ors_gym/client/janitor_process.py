"""The process behind :class:`~ors_gym.Janitor`: it deletes the sessions that a process leaves behind.

It is run as a script, by its path, and imports the standard library only, so that it starts fast and takes little
memory. It reads notes from its input, one JSON object a line, and acts when the input ends or the process
that writes it is gone, whichever comes first: a fork of that process may hold the pipe open.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, Self

DELAYS_SECONDS = (0.0, 1.0, 5.0, 30.0)
"""Delays at which to look for, and delete, a session whose creation was given up and may yet succeed."""
ATTEMPTS = 3
"""Attempts per request."""
REQUEST_SECONDS = 30.0
DELETIONS_AT_ONCE = 32
CLOSING_SECONDS = 2.0
"""Seconds that the owner waits for the last deletions, which continue after that."""
POLL_SECONDS = 1.0
DRAIN_SECONDS = 1.0
"""Seconds for which notes are read after the owner's death, if a fork of it keeps the pipe open."""


def main() -> None:
    """Leave the owner's process tree, write the process id, and wait."""
    owner = int(sys.argv[1])
    if hasattr(os, "fork") and os.fork():
        os._exit(0)  # the child belongs to no one: what kills an owner's children (Ray does) does not find it
    with contextlib.suppress(OSError):  # the owner is dead already
        os.write(1, f"{os.getpid()}\n".encode())
    notes = Notes(sys.stdin.buffer, owner)
    server = next(notes, None)
    if server is None:
        return
    sessions: dict[str, dict[str, str]] = {}
    with ThreadPoolExecutor(DELETIONS_AT_ONCE) as pool:
        deletions = Deletions(server, pool)
        for note in notes:
            sessions.update(note.get("sessions", {}))
            for sid in note.get("deleted", ()):
                sessions.pop(sid, None)
            for sid in note.get("abandoned", ()):
                if sid in sessions:
                    deletions.start(sid, sessions.pop(sid))
        for sid, headers in sessions.items():
            deletions.start(sid, headers)
        deletions.wait(CLOSING_SECONDS)
        with contextlib.suppress(OSError):
            os.close(1)  # the owner need not wait any longer
    if deletions.failures:
        sys.stderr.write(f"ors-gym: {len(deletions.failures)} sessions were not deleted: {deletions.failures[-1]}\n")


class Notes:
    """The owner's notes, until its input ends or it is gone."""

    def __init__(self, source: BinaryIO, owner: int) -> None:
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._orphaned = threading.Event()
        threading.Thread(target=self._read, args=(source,), daemon=True).start()
        threading.Thread(target=self._watch, args=(owner,), daemon=True).start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        line: bytes | None = b""
        while line == b"":
            try:
                line = self._lines.get(timeout=DRAIN_SECONDS if self._orphaned.is_set() else None)
            except queue.Empty:
                line = None
        if line is None:
            raise StopIteration
        return json.loads(line)

    def _read(self, source: BinaryIO) -> None:
        for line in source:
            if line.endswith(b"\n"):  # a line that was cut off: its owner died before the session was created
                self._lines.put(line)
        self._lines.put(None)

    def _watch(self, owner: int) -> None:
        _wait_for_end(owner)
        self._orphaned.set()
        self._lines.put(b"")  # wakes a reader that waits without a limit


def _wait_for_end(owner: int) -> None:
    """Wait until a process is gone."""
    if sys.platform == "win32":
        threading.Event().wait()  # pipes are not inherited there: their end is enough
    try:
        descriptor = os.pidfd_open(owner)
    except ProcessLookupError:
        pass
    except (AttributeError, OSError):  # not Linux, or an old one
        while _lives(owner):
            time.sleep(POLL_SECONDS)
    else:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        waiting.poll()


def _lives(owner: int) -> bool:
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Deletions:
    """Deletes sessions of one server, several at once.

    ``server`` has ``base`` (where sessions are pinged and deleted), ``headers``, ``verify``, ``cert`` and ``direct``.
    """

    def __init__(self, server: dict[str, Any], pool: ThreadPoolExecutor) -> None:
        self.failures: list[str] = []
        self._server = server
        self._pool = pool
        self._running = 0
        self._changed = threading.Condition()
        self._opener = urllib.request.build_opener(*_handlers(server), _NoRedirects())

    def start(self, sid: str, headers: dict[str, str]) -> None:
        """Begin to delete a session; ``headers`` are its own, such as the cookies of a balancer."""
        with self._changed:
            self._running += 1
        self._pool.submit(self._run, sid, headers)

    def wait(self, seconds: float) -> None:
        """Wait until every deletion has ended, or the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running, seconds)

    def _run(self, sid: str, headers: dict[str, str]) -> None:
        try:
            self._delete({**self._server["headers"], **headers, "X-Session-ID": sid})
        except Exception as error:  # nothing may keep the others from being deleted
            self.failures.append(f"{type(error).__name__}: {error}")
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _delete(self, headers: dict[str, str]) -> None:
        for delay in DELAYS_SECONDS:
            time.sleep(delay)
            there = self._send("/ping", headers) not in (404, 410)
            self._send("/delete", headers)  # also where it is not there: the server may have no /ping
            self._send("/delete_session", headers)
            if there:
                return

    def _send(self, path: str, headers: dict[str, str]) -> int:
        """Send a request until the server answers; returns the status."""
        request = urllib.request.Request(self._server["base"] + path, b"", headers, method="POST")
        for attempt in _attempts():
            try:
                with self._opener.open(request, timeout=REQUEST_SECONDS) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as refused:
                if refused.code not in (502, 503, 504) or attempt == ATTEMPTS:
                    return refused.code
            except OSError:
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError("unreachable")


def _attempts() -> Iterator[int]:
    for attempt in range(1, ATTEMPTS + 1):
        yield attempt
        time.sleep(0.5 * 2.0**attempt)


def _handlers(server: dict[str, Any]) -> list[urllib.request.BaseHandler]:
    verify = server["verify"]
    file = verify if isinstance(verify, str) and not os.path.isdir(verify) else None
    context = ssl.create_default_context(cafile=file, capath=None if file or verify is True else verify or None)
    if server["cert"]:
        context.load_cert_chain(*server["cert"])
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
    if server["direct"]:
        handlers.append(urllib.request.ProxyHandler({}))
    return handlers


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Keys follow no redirect."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


if __name__ == "__main__":
    main()
