"""The server as a deployment of Ray Serve."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cluster.connection import credentials
from cluster.connection.connect import worker_environment
from cluster.serving.settings import ServeSettings
from cluster.web.listening import listen

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application

NAME = "odeformer"
START_SECONDS = 600


class Replica:
    """A process that serves the model; Ray Serve starts another if it dies or its engine ends."""

    def __init__(self, settings: dict[str, Any], variables: dict[str, str]) -> None:
        os.environ.update(variables)  # credentials: not in the runtime_env, which Ray shows and logs
        from cluster.serving.server import Server

        self._settings = ServeSettings.model_validate(settings)
        self._server = Server(self._settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        from cluster.serving.api import make_app
        from cluster.serving.keys import Keys

        keys = self._settings.keys
        return make_app(self._server, None if keys is None else Keys(keys))

    def check_health(self) -> None:
        """Raise if the replica must be replaced, else note its state; Ray Serve asks every few seconds."""
        if not self._server.current.is_alive:
            raise RuntimeError("the engine has ended")
        self._server.metrics.state(self._server.current)


def application(arguments: dict[str, Any]) -> Application:
    """The server for a configuration file of Ray Serve's, whose ``args`` are :class:`ServeSettings`.

    Raises:
        ValueError: for wrong settings, or none for ``keys``: such a server is there for others.
    """
    settings = ServeSettings.model_validate(arguments)
    if settings.keys is None:
        raise ValueError("keys is missing: a server that other machines reach needs a file of hashed keys")
    return _bound(settings)


def deploy(settings: ServeSettings, host: str, port: int) -> None:
    """Serve on the Ray cluster that this process is connected to, until Ray Serve is shut down.

    Args:
        host: the address to listen on.
        port: the port.
    """
    from ray import serve

    listen(host, port)
    serve.run(_bound(settings), name=NAME, route_prefix="/")


def metrics_address() -> str:
    """The address at which Prometheus reads the metrics of a private cluster, which is one node."""
    import ray

    [node] = ray.nodes()
    return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


def _bound(settings: ServeSettings) -> Application:
    from ray import serve

    replica: Any = serve.deployment(serve.ingress()(Replica))
    options = {"num_cpus": settings.cpus, "runtime_env": {"env_vars": worker_environment(settings.cpus)}}
    bound: Application = replica.options(
        name=NAME, ray_actor_options=options, max_ongoing_requests=1000, health_check_period_s=2
    ).bind(settings.model_dump(mode="json"), credentials.ours())
    return bound
