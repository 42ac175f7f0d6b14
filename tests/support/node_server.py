"""The ORS server for Node.js that was written from the specification alone."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["NodeServer", "node_server"]

SCRIPT = Path(__file__).parent / "specification_server.mjs"


@dataclass(frozen=True)
class NodeServer:
    """A server that runs."""

    url: str

    @property
    def left(self) -> int:
        """The sessions that there are."""
        return self._counts["left"]

    @property
    def opened(self) -> int:
        """The sessions that there were."""
        return self._counts["opened"]

    @property
    def _counts(self) -> dict[str, int]:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # urlopen keeps a proxy that a test set
        with direct.open(f"{self.url}/left") as answer:
            return json.load(answer)


@contextlib.contextmanager
def node_server(form: str) -> Iterator[NodeServer]:
    """Run it, ``minimal`` or ``whole``."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    process = subprocess.Popen([node, str(SCRIPT), "0", form], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield NodeServer(f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
