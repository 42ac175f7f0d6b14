"""Servers in processes of the test's own, and whether a process is gone."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

__all__ = ["is_gone", "running_server"]


@contextlib.contextmanager
def running_server(
    module: str, argument: object, *before: str, setup: str = ""
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a server of ``tests.support`` with one argument; yields the process and its URL.

    ``before`` comes before the interpreter on the command line, ``setup`` is Python that runs first.
    """
    command = [*before, sys.executable, "-m", module, str(argument)]
    if setup:
        program = f"{setup}\nimport runpy, sys\nsys.argv[1:] = [{str(argument)!r}]\n"
        program += f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
        command = [*before, sys.executable, "-c", program]
    path = os.pathsep.join([str(ROOT), str(ROOT / "integrations")])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, **pipes) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def is_gone(pid: int) -> bool:
    """Whether a process has ended, all its threads included; one that only waits to be reaped has."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] == "Z" and len(threads) <= 1
