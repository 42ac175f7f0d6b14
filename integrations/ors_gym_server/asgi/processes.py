"""Detection of several server processes, each with its own sessions."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import PurePath

__all__ = ["num_processes", "warn_of_several_processes"]

logger = logging.getLogger(__name__)

SERVERS = ("uvicorn", "fastapi", "gunicorn", "hypercorn", "granian", "daphne")
"""Programs that run an ASGI application in as many processes as their command line says."""


def num_processes(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Number of processes on the command line of an ASGI server; 1 for other programs."""
    words = [PurePath(each).name.removesuffix(".exe") for each in argv[:1]]
    words += [PurePath(argv[0]).parent.name] if argv else []  # python -m uvicorn: …/uvicorn/__main__.py
    if not any(word in SERVERS for word in words):
        return 1
    wanted = environ.get("WEB_CONCURRENCY", "")
    for index, argument in enumerate(argv):
        option, equals, value = argument.partition("=")
        if option in ("--workers", "-w"):
            wanted = value if equals else "".join(argv[index + 1 : index + 2])
    return int(wanted) if wanted.isdecimal() and len(wanted) < 6 else 1


def warn_of_several_processes() -> None:
    """Warn that each session exists in only one of the processes."""
    if (count := num_processes(sys.argv, os.environ)) > 1:
        logger.warning(
            "%d processes serve copies of this application, and a session lives in one of them: requests reach the "
            "wrong one. Run one process, or `ors-gym serve --workers %d`, which keeps a session where it is",
            count,
            count,
        )
