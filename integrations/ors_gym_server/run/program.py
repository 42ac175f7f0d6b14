"""The command line of a ``server.py``, in one function."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from ors_gym_server.adapters.openreward import as_openreward
from ors_gym_server.run.serve import default_port, serve

__all__ = ["main"]


def main(*environments: type, argv: Sequence[str] | None = None) -> None:
    """Serve environments until Ctrl-C or SIGTERM, as the command line says.

    ::

        if __name__ == "__main__":
            main(MyEnvironment)

    The options are ``--host``, ``--port`` (default: the variable ``PORT``, else 8080), ``--open-to-all``, and ``--sdk``
    for the reference SDK's server. Clients need the key that the variable ``ORS_API_KEY`` holds, if it is set.

    Args:
        *environments: As for :func:`~ors_gym_server.create_app`.
        argv: The arguments, by default those of the process.
    """
    names = ", ".join(each.__name__ for each in environments)
    parser = argparse.ArgumentParser(description=f"Serve {names} by the Open Reward Standard.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, help="(default: the variable PORT, else 8080)")
    parser.add_argument("--open-to-all", action="store_true", help="let other machines connect without a key")
    parser.add_argument("--sdk", action="store_true", help="on the reference SDK's server: pip install openreward")
    arguments = parser.parse_args(argv)
    try:
        port = default_port() if arguments.port is None else arguments.port
    except ValueError as error:
        parser.error(str(error))
    if arguments.sdk:
        from openreward.environments import Server

        Server([as_openreward(each) for each in environments]).run(arguments.host, port)
    else:
        serve(
            environments,
            host=arguments.host,
            port=port,
            api_key=os.environ.get("ORS_API_KEY") or None,
            open_to_all=arguments.open_to_all,
            started=lambda url: print(f"Serving at {url}", flush=True),
        )
