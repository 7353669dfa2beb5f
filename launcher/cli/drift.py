"""``odeformer drift``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from launcher import preflight
from launcher.cli.options import AsJson, AttachedAdapter, Depth, Model, Overwrite, TrackingUri


def drift(
    model: Model,
    reference: Annotated[Path, typer.Option(help="A file of text such as the model was judged on.")],
    text: Annotated[Path, typer.Option(help="A file of the text that comes in now.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    depth: Depth = None,
    adapter: AttachedAdapter = None,
    fail_on_drift: Annotated[
        bool, typer.Option("--fail-on-drift", help="Exit with code 1 if any figure has moved.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """What has moved. Example: odeformer drift --model m --reference old.txt --text new.txt --out seen"""
    from launcher.cli.analyze import check_installed

    check_installed("plotly", "jinja2")
    from odeformer.depth import uniform_grid

    if depth is not None:
        uniform_grid(depth)  # refuses a depth of 0 before anything is loaded
    preflight.at_model(model, tracking_uri, adapter)
    from launcher.analysis import drift as monitor
    from launcher.analysis.pages.drift import table, verdict
    from launcher.terminal.console import make_console
    from launcher.terminal.progress import Progress

    progress = Progress(make_console(as_json))
    with progress.stage(f"drift in {out}"):
        content = monitor.drift(
            model,
            adapter,
            reference,
            text,
            out,
            depth,
            tracking_uri,
            overwrite=overwrite,
            progress=progress.update,
        )
    if as_json:
        print(json.dumps(content, indent=2))
    else:
        progress.console.print(table(content))
        for line in (*verdict(content), f"open {out / 'drift.html'} in a browser"):
            progress.console.print(line, highlight=False, markup=False, soft_wrap=True)
    if fail_on_drift and content["moved"]:
        raise typer.Exit(1)
