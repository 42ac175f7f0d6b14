"""Serve FrozenLake-v1: ``python server.py``, and on the reference SDK's server: ``python server.py --sdk``."""

from __future__ import annotations

import argparse
import os

from ors_gym_server import as_openreward, as_ors_environment, serve

from tasks import SPLITS

# Arguments of the environment's own go here too (is_slippery=False); action_names=, observation_names=, formatter= and
# instructions= say it in better words: help(as_ors_environment).
MyEnvironment = as_ors_environment("FrozenLake-v1", name="MyEnvironment", splits=SPLITS)


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="(default: %(default)s)")
    parser.add_argument("--open-to-all", action="store_true", help="let other machines connect without a key")
    parser.add_argument("--sdk", action="store_true", help="on the reference SDK's server: pip install openreward")
    arguments = parser.parse_args()
    if arguments.sdk:
        from openreward.environments import Server

        Server([as_openreward(MyEnvironment)]).run(arguments.host, arguments.port)
    else:
        serve(
            [MyEnvironment],
            host=arguments.host,
            port=arguments.port,
            api_key=os.environ.get("ORS_API_KEY") or None,
            open_to_all=arguments.open_to_all,
            started=lambda url: print(f"Serving at {url}", flush=True),
        )


if __name__ == "__main__":
    main()
