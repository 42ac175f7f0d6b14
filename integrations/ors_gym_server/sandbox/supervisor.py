"""The process that supervises one run under sandlock: ``python -I -S supervisor.py POLICY COMMAND…``.

A script with only the standard library and sandlock. It first drops root's privileges, if it has them. SIGTERM, which
the kernel also sends when the server dies, ends the run and all its processes.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
from typing import Any

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4


def main() -> int:
    """Run the command; returns its exit code, or 128 + n if signal n killed it."""
    described: dict[str, Any] = json.loads(sys.argv[1])
    parent = os.getppid()
    sys.path.insert(0, described["packages"])
    from sandlock import Sandbox

    if (user := described["user"]) is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # a change of user clears it, but sandlock needs it to read /proc
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    over = threading.Event()

    def end(signum: int, frame: object) -> None:
        over.set()

    signal.signal(signal.SIGTERM, end)
    if os.getppid() != parent:  # the server died before PR_SET_PDEATHSIG was set
        return 125
    process = Sandbox(**described["policy"]).popen(sys.argv[2:])
    ended: list[int] = []

    def wait() -> None:
        result = process.wait()
        ended.append(128 + result.signal if result.signal > 0 else result.exit_code)
        over.set()

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    while not over.wait(3600):
        pass
    if not ended:
        process.kill()
        waiter.join(5)
    return ended[0] if ended else 128 + signal.SIGKILL


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code & 0xFF)
