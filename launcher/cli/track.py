"""The command ``odeformer track``: upload metrics that MLflow lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from launcher import preflight
from launcher.cli.options import TrackingUri
from launcher.cli.output import say

track_app = typer.Typer(help="Upload a run's metrics to MLflow.", no_args_is_help=True)


@track_app.command("sync")
def track_sync(
    run: Annotated[Path, Argument(metavar="RUN_DIR", help="Folder of the run, its run.dir.")],
    seconds: Annotated[float, Option(min=0, help="Keep retrying for this many seconds.")] = 60.0,
    tracking_uri: TrackingUri = None,
) -> None:
    """Upload metrics recorded while MLflow was down.

    Example: odeformer track sync runs/mine
    """
    preflight.at_run(run, tracking_uri)
    from cluster.tracking import runs, upload

    upload.sync(run, seconds)
    say(f"all metrics of {run} are in {runs.run_uri(run)}")
