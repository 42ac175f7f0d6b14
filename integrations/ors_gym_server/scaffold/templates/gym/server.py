"""Serve FrozenLake-v1: ``python server.py``, and on the reference SDK's server: ``python server.py --sdk``."""

from __future__ import annotations

from ors_gym_server import as_ors_environment, main

from tasks import SPLITS

# Arguments of the environment also go here (is_slippery=False); action_names=, observation_names=, formatter= and
# instructions= improve the texts: see help(as_ors_environment).
MyEnvironment = as_ors_environment("FrozenLake-v1", name="MyEnvironment", splits=SPLITS)


if __name__ == "__main__":
    main(MyEnvironment)
