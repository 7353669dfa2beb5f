"""The door as applications of Ray Serve, beside the server of models on the same port."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cluster.connection import credentials
from cluster.connection.connect import HEAD, worker_environment
from cluster.web.listening import listen

if TYPE_CHECKING:
    from fastapi import FastAPI

APPLICATIONS = {
    "odeformer-files": "/v1/files",
    "odeformer-jobs": "/v1/fine_tuning",
    "odeformer-page": "/pool",
}
"""Names and prefixes. A process for each: a large upload that is read does not slow the other one down."""


class Replica:
    """A process of the door; Ray Serve starts another if it dies. It has no state: that is the pool's."""

    def __init__(self, variables: dict[str, str]) -> None:
        os.environ.update(variables)  # credentials: not in the runtime_env, which Ray shows and logs

    def __serve_build_asgi_app__(self) -> FastAPI:
        from cluster.door.api import make_app
        from cluster.door.settings import DoorSettings

        return make_app(DoorSettings())


def deploy(host: str, port: int) -> None:
    """Open the door on the Ray cluster that this process is connected to.

    Args:
        host: the address to listen on.
        port: the port.

    Raises:
        ValueError: when Ray Serve listens elsewhere on this cluster.
    """
    from ray import serve

    listen(host, port)
    replica: Any = serve.deployment(serve.ingress()(Replica))
    # Beside the pool, whose files it writes; it waits more than it computes.
    options = {"num_cpus": 0, "resources": {HEAD: 0.001}, "runtime_env": {"env_vars": worker_environment(1)}}
    for name, prefix in APPLICATIONS.items():
        bound = replica.options(
            name=name, ray_actor_options=options, max_ongoing_requests=1000, health_check_period_s=2
        ).bind(credentials.ours())
        serve.run(bound, name=name, route_prefix=prefix)
