"""Serving from the command line, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from threading import Event
from types import FrameType

from cluster.door import deployment as door
from cluster.serving.deployment import NAME, deploy, metrics_address
from cluster.serving.settings import ServeSettings
from launcher.terminal.progress import Progress


def serve_until_stopped(
    settings: ServeSettings, host: str, port: int, progress: Progress, is_ours: bool
) -> None:
    """Deploy, say where, and wait for a signal; open streams are given time to end.

    On a cluster that is not ours, other Ray Serve applications keep running.

    Raises:
        RuntimeError: if the model cannot be served, with the reason.
        ValueError: if Ray Serve listens elsewhere on the cluster.
    """

    def begin() -> Iterable[str]:
        deploy(settings, host, port)
        yield f"serving {settings.model} at {_shown(host, port)}/v1"
        yield f"playground: {_shown(host, port)}/   (Ctrl-C ends it)"
        if is_ours:
            yield f"metrics: {metrics_address()}"

    _until_stopped(begin, [NAME], progress)


def open_door_until_stopped(host: str, port: int, progress: Progress) -> None:
    """Open the pool's door, say where, and wait for a signal.

    Raises:
        RuntimeError: if it cannot be opened, with the reason.
        ValueError: if Ray Serve listens elsewhere on the cluster.
    """

    def begin() -> Iterable[str]:
        door.deploy(host, port)
        yield f"the pool's door is at {_shown(host, port)}/v1   (Ctrl-C closes it)"
        yield f"page: {_shown(host, port)}/pool"

    _until_stopped(begin, list(door.APPLICATIONS), progress)


def _until_stopped(begin: Callable[[], Iterable[str]], applications: list[str], progress: Progress) -> None:
    """Begin, say what that returns, wait for a signal, and delete applications of Ray Serve."""
    from ray import serve

    stopped = Event()

    def stop(signal_number: int, frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    try:
        for line in begin():
            progress.console.print(line, soft_wrap=True)
        stopped.wait()
    except KeyboardInterrupt:
        pass
    finally:
        for name in applications:
            serve.delete(name)
        if not serve.status().applications:
            serve.shutdown()


def _shown(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
