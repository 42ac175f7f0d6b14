"""Real proxies of the distribution, started on loopback with the configurations beside this file."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.ors_servers import free_port

__all__ = ["running"]

CONFIGURATIONS = Path(__file__).parent / "configurations"
FILES = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg", "varnishd": "varnish.vcl", "squid": "squid.conf"}
START_SECONDS = 30.0


@contextlib.contextmanager
def running(program: str, *servers: str, read_seconds: int = 60) -> Iterator[str]:
    """Run a proxy before one or two servers; yields its URL."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o777)  # proxies started by root give themselves another user
        with _running(program, Path(folder), servers, read_seconds) as url:
            yield url


@contextlib.contextmanager
def _running(program: str, folder: Path, servers: Sequence[str], read_seconds: int) -> Iterator[str]:
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed")
    port = free_port()
    ports = [server.rpartition(":")[2] for server in servers] or ["0"]
    values = {"PORT": port, "FOLDER": folder, "FIRST": ports[0], "SECOND": ports[-1], "READ_SECONDS": read_seconds}
    text = (CONFIGURATIONS / FILES[program]).read_text().replace("${READ_SECONDS}", "$READ_SECONDS")
    for name, value in values.items():
        text = text.replace(f"${name}", str(value))
    file = folder / FILES[program]
    file.write_text(text)
    (folder / "hosts").write_text("127.0.0.1 ors.test\n")
    command = {
        "nginx": [found, "-c", str(file), "-p", str(folder)],
        "haproxy": [found, "-db", "-f", str(file)],
        "varnishd": [found, "-F", "-a", f"127.0.0.1:{port}", "-f", str(file), "-n", str(folder), "-s", "malloc,32m"],
        "squid": [found, "-N", "-f", str(file)],
    }[program]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        until = time.monotonic() + START_SECONDS
        while not _answers(port):
            assert process.poll() is None, (folder / "output").read_text()
            assert time.monotonic() < until, f"{program} does not answer"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
