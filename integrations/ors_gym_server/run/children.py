"""Child processes of environments: they end with the server and keep none of its sockets."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Collection, Iterator
from multiprocessing.process import BaseProcess
from types import FrameType

__all__ = ["become_init", "end_children", "not_inherited"]

TERMINATE_SECONDS = 2.0
"""Seconds that a child may take to end before it is killed."""

_NOT_INHERITED: set[socket.socket] = set()


@contextlib.contextmanager
def not_inherited(listener: socket.socket) -> Iterator[None]:
    """Close the socket in forked processes, which would otherwise keep the port."""
    _NOT_INHERITED.add(listener)
    try:
        yield
    finally:
        _NOT_INHERITED.discard(listener)


def _close_inherited() -> None:
    for each in _NOT_INHERITED:
        with contextlib.suppress(OSError):
            os.close(each.fileno())
    _NOT_INHERITED.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)


def end_children(others: Collection[BaseProcess]) -> None:
    """End processes of ``multiprocessing`` (pools, executors), except ``others``, which existed before.

    Python would wait for them forever at exit.
    """
    children = [child for child in multiprocessing.active_children() if child not in others]
    for child in children:
        child.terminate()
    deadline = time.monotonic() + TERMINATE_SECONDS
    for child in children:
        child.join(max(0.0, deadline - time.monotonic()))
        if child.exitcode is None:
            child.kill()


FORWARDED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")


def become_init() -> None:
    """Continue in a child process, while this one forwards signals and reaps orphans.

    For the first process of a container, the parent of all orphans: otherwise each program that a tool leaves behind
    stays a zombie. Returns in the child; this process exits with the child's status.
    """
    signals = [getattr(signal, name) for name in FORWARDED]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    server = os.fork()
    if not server:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return

    def forward(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and sys.stdin is not None and sys.stdin.isatty():
            return  # the terminal sent it to the server too
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, signum)

    for signum in signals:
        signal.signal(signum, forward)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    while True:
        pid, status = os.wait()
        if pid == server:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
