"""Serving from the command line, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
from threading import Event
from types import FrameType

from cluster.serving.deployment import NAME, deploy, metrics_address
from cluster.serving.settings import ServeSettings
from launcher.terminal.progress import Progress


def serve_until_stopped(
    settings: ServeSettings, host: str, port: int, progress: Progress, is_ours: bool
) -> None:
    """Deploy, say where, and wait for a signal; open streams are given time to end.

    On a cluster that is not ours, other applications of Ray Serve go on.

    Raises:
        RuntimeError: if the model cannot be served, with the reason.
    """
    from ray import serve

    stopped = Event()

    def stop(signal_number: int, frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    try:
        deploy(settings, host, port)
        shown = f"[{host}]" if ":" in host else host
        progress.console.print(f"serving {settings.model} at http://{shown}:{port}/v1", soft_wrap=True)
        progress.console.print(f"playground: http://{shown}:{port}/   (Ctrl-C ends it)", soft_wrap=True)
        if is_ours:
            progress.console.print(f"metrics: {metrics_address()}", soft_wrap=True)
        stopped.wait()
    except KeyboardInterrupt:
        pass
    finally:
        if is_ours:
            serve.shutdown()
        else:
            serve.delete(NAME)
