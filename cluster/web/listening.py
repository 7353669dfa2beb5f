"""The HTTP port of Ray Serve, which all applications on a cluster share."""

from __future__ import annotations

import logging


def listen(host: str, port: int) -> None:
    """Start Ray Serve on the cluster that this process is connected to, unless it runs there already.

    Raises:
        ValueError: if it listens elsewhere: what is meant for this machine alone must not be open to others.
    """
    from ray import serve
    from ray.serve.context import _get_global_client

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(http_options={"host": host, "port": port, "location": "HeadOnly"})
    running = _get_global_client().http_config
    if (running.host, running.port) != (host, port):
        raise ValueError(
            f"Ray Serve on this cluster listens at {running.host}:{running.port} already: "
            f"give --host {running.host} --port {running.port}"
        )
