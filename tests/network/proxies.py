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

from tests.support.ors_servers import free_port

__all__ = ["Proxy", "running"]

CONFIGURATIONS = Path(__file__).parent / "configurations"
FILES = {
    "nginx": "nginx.conf",
    "haproxy": "haproxy.cfg",
    "caddy": "Caddyfile",
    "varnishd": "varnish.vcl",
    "squid": "squid.conf",
}
START_SECONDS = 30.0


class Proxy:
    """A proxy before servers; it can be started again, as an update of it does.

    Args:
        program: its name.
        folder: where its files go.
        servers: the URLs of one or two servers.
        read_seconds: how long it waits for a server that says nothing.
    """

    def __init__(self, program: str, folder: Path, servers: Sequence[str], read_seconds: int) -> None:
        found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        if found is None:
            raise FileNotFoundError(f"{program} is not installed")
        self._program = program
        self._folder = folder
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        ports = [server.rpartition(":")[2] for server in servers] or ["0"]
        values = {
            "PORT": self._port,
            "FOLDER": folder,
            "FIRST": ports[0],
            "SECOND": ports[-1],
            "READ_SECONDS": read_seconds,
        }
        text = (CONFIGURATIONS / FILES[program]).read_text().replace("${READ_SECONDS}", "$READ_SECONDS")
        for name, value in values.items():
            text = text.replace(f"${name}", str(value))
        file = folder / FILES[program]
        file.write_text(text)
        (folder / "hosts").write_text("127.0.0.1 ors.test\n")
        listen = f"127.0.0.1:{self._port}"
        self._command = {
            "nginx": [found, "-c", str(file), "-p", str(folder)],
            "haproxy": [found, "-db", "-f", str(file)],
            "caddy": [found, "run", "--config", str(file), "--adapter", "caddyfile"],
            "varnishd": [found, "-F", "-a", listen, "-f", str(file), "-n", str(folder), "-s", "malloc,32m"],
            "squid": [found, "-N", "-f", str(file)],
        }[program]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "output").open("wb") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output, env=self._environment)
        until = time.monotonic() + START_SECONDS
        while not _answers(self._port):
            assert self._process.poll() is None, (self._folder / "output").read_text()
            assert time.monotonic() < until, f"{self._program} does not answer"
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, and every connection through it, at once."""
        assert self._process is not None
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        self._process.kill()
        self._process.wait()

    @property
    def _environment(self) -> dict[str, str]:
        home = {name: str(self._folder) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        return {name: value for name, value in os.environ.items() if "proxy" not in name.lower()} | home


@contextlib.contextmanager
def running(program: str, *servers: str, read_seconds: int = 60) -> Iterator[Proxy]:
    """Run a proxy before one or two servers.

    Raises:
        FileNotFoundError: it is not installed.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o777)  # proxies started by root give themselves another user
        proxy = Proxy(program, Path(folder), servers, read_seconds)
        try:
            proxy.start()
            yield proxy
        finally:
            proxy.stop()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
