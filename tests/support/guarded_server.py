"""A server with short deadlines and a key: ``python -m tests.support.guarded_server NUM_WORKERS``."""

from __future__ import annotations

import sys

from ors_gym_server import Limits, serve, tool
from tests.support.task_environments import Numbered

KEY = "k3y"
LIMITS = Limits(header_seconds=1.0, max_header_bytes=8000, body_seconds=1.0, write_seconds=1.0, max_request_bytes=2**24)


class Tower(Numbered):
    """Says much."""

    num_tasks_of_train = 1

    @tool
    def recite(self) -> str:
        """Give eight megabytes."""
        return "x" * 2**23


if __name__ == "__main__":
    serve(
        [Tower],
        port=0,
        api_key=KEY,
        limits=LIMITS,
        workers=int(sys.argv[1]),
        started=lambda url: print(url, flush=True),
    )
