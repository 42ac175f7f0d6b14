"""Serve an environment of an OpenEnv server: ``python server.py``, or ``--sdk`` on the reference SDK's."""

from __future__ import annotations

import os

from ors_gym_server import from_openenv, main

from tasks import SPLITS

# The OpenEnv server must be running: its environment is read now. In a container, set OPENENV_URL.
URL = os.environ.get("OPENENV_URL", "http://localhost:8000")
MyEnvironment = from_openenv(URL, name="MyEnvironment", splits=SPLITS)


if __name__ == "__main__":
    main(MyEnvironment)
