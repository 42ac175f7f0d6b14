"""Print the table of the client through proxies: `python -m tests.network.table [--client FOLDER]`.

Each proxy with its configuration here, before our server and the reference's; ``case.py`` has the cases. ``--client``
names the checkout of another version, whose client then runs the cases.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.network.proxies import Proxy, running

HERE = Path(__file__).parent
PROXIES = ("direct", "nginx", "haproxy", "caddy", "varnishd", "squid")
SERVERS = ("ors-gym", "openreward")
CASES = ("fast", "3 MB", "64 members", "75 s", "restart")


@contextlib.contextmanager
def served(kind: str) -> Iterator[str]:
    """A server in its own process."""
    command = [sys.executable, "-m", "tests.network.bench_server", kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def item(case: str, name: str, server: str, proxy: Proxy | None) -> dict[str, str]:
    """A case for a client: where it plays, and through which proxy of its environment."""
    url, http_proxy = server if proxy is None else proxy.url, ""
    if proxy is not None and name == "squid":
        url, http_proxy = server.replace("127.0.0.1", "ors.test"), proxy.url
    elif name in ("nginx", "caddy"):
        url = f"{url}/ors"
    return {"case": case, "url": url, "http_proxy": http_proxy}


def played(case: str, rows: Sequence[tuple[str, str, Proxy | None]], client: str | None) -> list[str]:
    """What came of a case, for each row."""
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    if client is not None:
        environment["PYTHONPATH"] = client
    with subprocess.Popen(
        [sys.executable, str(HERE / "case.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if case == "restart" else subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps([item(case, *row) for row in rows]))
        process.stdin.close()
        if case == "restart":
            assert process.stderr is not None
            calls = (line for line in process.stderr if line.startswith("calling"))
            for _ in rows:
                next(calls)
            time.sleep(2.0)
            for _, _, proxy in rows:
                if proxy is not None:
                    proxy.stop()
                    proxy.start()
        assert process.stdout is not None
        return list(json.loads(process.stdout.read()))


def main() -> None:
    """Print one row for each proxy and server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", help="the checkout whose client runs the cases")
    parser.add_argument("--proxy", action="append", choices=PROXIES)
    parser.add_argument("--case", action="append", choices=CASES)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        servers = {kind: stack.enter_context(served(kind)) for kind in SERVERS}
        rows: list[tuple[str, str, Proxy | None]] = []
        for name in arguments.proxy or PROXIES:
            for kind in SERVERS:
                proxy = None if name == "direct" else stack.enter_context(running(name, servers[kind]))
                rows.append((name, servers[kind], proxy))
        columns = {case: played(case, rows, arguments.client) for case in arguments.case or CASES}
    print(f"| proxy | server | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 2)}")
    kinds = {url: kind for kind, url in servers.items()}
    for number, (name, url, _) in enumerate(rows):
        print(f"| {name} | {kinds[url]} | {' | '.join(column[number] for column in columns.values())} |")


if __name__ == "__main__":
    main()
