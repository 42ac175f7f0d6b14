"""The ors-gym server compared with the reference server: the same class, written for the reference SDK, and driver.

``python benchmarks/server.py`` prints a table. Each server runs in a separate process on one core (``taskset``), the
driver on another: raw sockets, with one session and one running call per connection.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).resolve().parent


class Connection(asyncio.Protocol):
    """One connection that makes one call after another until it is stopped."""

    def __init__(self, request: bytes, latencies: list[float]) -> None:
        self._request = request
        self._latencies = latencies
        self._tail = b""
        self._sent = 0.0
        self._ok = False
        self.stopped = False
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._ok = False
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Search for the end of the response, which both servers send in chunks."""
        tail = self._tail + data[-64:]
        self._ok = self._ok or b"event: end" in data
        self._tail = tail[-8:]
        if not tail.endswith(b"\r\n0\r\n\r\n"):
            return
        self._tail = b""
        self._latencies.append(time.perf_counter() - self._sent)
        if not self._ok:
            self.over.set_exception(RuntimeError(f"no result: {data[-300:]!r}"))
        elif self.stopped:
            self.over.set_result(None)
        else:
            self._send()


async def drive(
    url: str, tool: str, input: dict[str, Any], connections: int, seconds: float, pid: int
) -> dict[str, float]:
    """Calls for a given time over a number of connections."""
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=16)) as client:
        requests = [await _open(client, tool, input) for _ in range(connections)]
        port = httpx.URL(url).port
        latencies: list[float] = []
        loop = asyncio.get_running_loop()
        made = [
            (await loop.create_connection(lambda request=request: Connection(request, latencies), "127.0.0.1", port))
            for _, request in requests
        ]
        await asyncio.sleep(min(1.0, seconds / 3))
        latencies.clear()
        cpu, began = _cpu_seconds(pid), time.perf_counter()
        await asyncio.sleep(seconds)
        elapsed, used = time.perf_counter() - began, _cpu_seconds(pid) - cpu
        measured = sorted(latencies)
        for _, connection in made:
            connection.stopped = True
        async with asyncio.timeout(60):
            await asyncio.gather(*(connection.over for _, connection in made))
        for transport, _ in made:
            transport.close()
        for sid, _ in requests:
            await client.post("/delete", headers={"X-Session-ID": sid})
    return {
        "calls/s": len(measured) / elapsed,
        "calls/cpu s": len(measured) / used,
        "p50 ms": statistics.median(measured) * 1e3,
        "p99 ms": measured[int(len(measured) * 0.99)] * 1e3,
        "MB": _memory_mb(pid),
    }


async def _open(client: httpx.AsyncClient, tool: str, input: dict[str, Any]) -> tuple[str, bytes]:
    answer = await client.post("/create_session")
    sid = answer.text.split("data: ", 1)[1].split()[0]
    headers = {"X-Session-ID": sid}
    (await client.post("/create", json={"task_spec": {}}, headers=headers)).raise_for_status()
    (await client.get("/bench/prompt", headers=headers)).raise_for_status()
    body = json.dumps({"name": tool, "input": input}).encode()
    head = f"POST /bench/call HTTP/1.1\r\nhost: x\r\nx-session-id: {sid}\r\ncontent-type: application/json\r\n"
    return sid, head.encode() + b"content-length: %d\r\n\r\n%b" % (len(body), body)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(kind: str, tool: str, input: dict[str, Any], connections: int, seconds: float) -> dict[str, float]:
    """One case against a fresh server of this kind."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["taskset", "-c", "0", sys.executable, str(HERE / "server_host.py"), kind, str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = f"http://127.0.0.1:{port}"
        _await_health(url)
        result = asyncio.run(drive(url, tool, input, connections, seconds, server.pid))
    finally:
        server.send_signal(signal.SIGTERM)
        output, _ = server.communicate(timeout=60)
    return result | json.loads(output.splitlines()[-1])


def _await_health(url: str) -> None:
    for _ in range(300):
        try:
            httpx.get(f"{url}/health")
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError(f"no server at {url}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parser.add_argument("--connections", type=int, nargs="*", default=[16, 64, 256])
    parser.add_argument("--tools", nargs="*", default=["quick", "plain", "big"])
    parser.add_argument("--kinds", nargs="*", default=["reference", "ours"])
    asked = parser.parse_args()
    os.sched_setaffinity(0, {1})
    line = {"text": "a short observation of one line"}
    cases = [(tool, line, n) for tool in asked.tools if tool != "big" for n in asked.connections]
    cases += [("big", {}, n) for n in asked.connections[:1] if "big" in asked.tools]
    columns = ["calls/s", "calls/cpu s", "p50 ms", "p99 ms", "MB", "gc max ms", "gc total ms"]
    print(f"{'tool':6} {'conns':>5} {'server':10}" + "".join(f"{column:>13}" for column in columns))
    for tool, input, connections in cases:
        for kind in asked.kinds:
            result = measure(kind, tool, input, connections, asked.seconds)
            row = "".join(f"{result[column]:13,.1f}" for column in columns)
            print(f"{tool:6} {connections:5} {kind:10}{row}", flush=True)


if __name__ == "__main__":
    main()
