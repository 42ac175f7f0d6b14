"""The program of a separate process in which environments are tried before they are served.

It imports the server alone, and no client: the time that it takes to start is waited for.
"""

from __future__ import annotations

import os
import pickle
import random
import signal
import sys
import threading
from functools import partial
from typing import Any

import cloudpickle
import numpy as np

from ors_gym.http.answers import ASGIApp
from ors_gym_server.asgi.app import create_app
from ors_gym_server.run.serve import listen, run_app

__all__ = ["live"]


def live() -> None:
    """Serve the environments that stdin brings until it is closed."""
    key, reseeds = pickle.load(sys.stdin.buffer)
    app = create_app(cloudpickle.load(sys.stdin.buffer), api_key=key)
    listener = listen("127.0.0.1", 0)
    output, sys.stdout = sys.stdout, sys.stderr  # environments print
    threading.Thread(target=_end_with, args=(sys.stdin.buffer,), daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    run_app(
        _reseeding(app) if reseeds else app,
        listener,
        partial(print, url, file=output, flush=True),
        limits=app.limits,
        drain_seconds=1.0,
    )


def _end_with(stream: Any) -> None:
    stream.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _reseeding(app: ASGIApp) -> ASGIApp:
    """Leave the global random generators in another state before each request, as other sessions do."""

    async def reseeding(scope: Any, receive: Any, send: Any) -> None:
        random.seed()
        np.random.seed()
        await app(scope, receive, send)

    return reseeding
