"""``odeformer track``: what MLflow lacks of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

track_app = typer.Typer(help="A run's metrics in MLflow.", no_args_is_help=True)


@track_app.command("sync")
def track_sync(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The run.dir of a run.")],
    seconds: Annotated[float, typer.Option(min=0, help="How long to try.")] = 60.0,
) -> None:
    """Send what was measured while MLflow was away. Example: odeformer track sync runs/mine"""
    from cluster.tracking import runs, upload
    from launcher.terminal.console import make_console

    upload.sync(run, seconds)
    console = make_console()
    console.print(f"all of {run} is in {runs.run_uri(run)}", highlight=False, soft_wrap=True)
