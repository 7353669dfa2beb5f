"""The command ``odeformer analyze``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from launcher import preflight
from launcher.cli.options import AttachedAdapter, Depth, Model, Overwrite, TrackingUri
from launcher.cli.output import check_installed, make_progress, say


def analyze(
    model: Model,
    text: Annotated[str, Option(help="A text file, or the text itself; it must fit the model's context.")],
    out: Annotated[Path, Option(help="Folder to write to.")],
    depth: Depth = None,
    adapter: AttachedAdapter = None,
    log: Annotated[bool, Option("--log", help="Log the report and the text to MLflow, too.")] = False,
    overwrite: Overwrite = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write an HTML report on a model and text.

    Example: odeformer analyze --model m --text a.txt --out o
    """
    check_installed("analyze", "captum", "plotly", "jinja2")
    if log and not (adapter or model).startswith("models:/"):
        raise ValueError("--log needs a model of the registry, models:/…: a folder has no version in MLflow")
    preflight.at_model(model, tracking_uri, adapter)
    from launcher.analysis import analyze as analysis

    progress = make_progress()
    with progress.stage(f"analysis in {out}"):
        report = analysis.analyze(
            model, adapter, text, out, depth, tracking_uri, overwrite=overwrite, progress=progress.update
        )
    say(f"  open {report} in a browser; numbers: {out / analysis.FILE}")
    if log:
        say(f"  logged: {analysis.log(out, tracking_uri)}")
