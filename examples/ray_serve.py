"""A Gymnasium environment as an ORS server on Ray Serve: ``serve run examples.ray_serve:app``.

Then ``ors-gym rollout http://localhost:8000 --episodes 200``, and watch the replicas scale with ``serve status``.
"""

from ors_gym_ray import serve_app
from ors_gym_server import as_ors_environment, create_app
from ors_gym_server.asgi.app import ORSApp


def make_app() -> ORSApp:
    """The server in each replica."""
    return create_app([as_ors_environment("FrozenLake-v1")])


app = serve_app(
    make_app,
    max_sessions_per_replica=64,
    max_replicas=8,
    replica_options={"num_cpus": 0.5},
)
