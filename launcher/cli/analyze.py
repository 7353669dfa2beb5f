"""``odeformer analyze``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher import preflight
from launcher.cli.options import AttachedAdapter, Depth, Model, Overwrite, TrackingUri


def analyze(
    model: Model,
    text: Annotated[str, typer.Option(help="A file of text, or the text itself; it must fit the context.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    depth: Depth = None,
    adapter: AttachedAdapter = None,
    log: Annotated[
        bool, typer.Option("--log", help="Log the folder, text included, with the version in MLflow.")
    ] = False,
    overwrite: Overwrite = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Look inside. Example: odeformer analyze --model models:/tiny@champion --text a.txt --out seen"""
    check_installed("captum", "plotly", "jinja2")
    from odeformer.depth import uniform_grid

    if depth is not None:
        uniform_grid(depth)  # refuses a depth of 0 before anything is loaded
    if log and not (adapter or model).startswith("models:/"):
        raise ValueError("--log: a folder has no version in MLflow: give a model of the registry, models:/…")
    preflight.at_model(model, tracking_uri, adapter)
    from launcher.analysis import analyze as analysis
    from launcher.terminal.console import make_console
    from launcher.terminal.progress import Progress

    progress = Progress(make_console())
    with progress.stage(f"analysis in {out}"):
        report = analysis.analyze(
            model, adapter, text, out, depth, tracking_uri, overwrite=overwrite, progress=progress.update
        )
    progress.console.print(
        f"  open {report} in a browser; numbers: {out / analysis.FILE}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if log:
        place = analysis.log(out, tracking_uri)
        progress.console.print(f"  logged: {place}", highlight=False, markup=False, soft_wrap=True)


def check_installed(*packages: str) -> None:
    """Refuse to begin without what only the analysis needs.

    Raises:
        ValueError: naming the packages, and how to get them.
    """
    from importlib.util import find_spec

    lacking = [name for name in packages if find_spec(name) is None]
    if lacking:
        raise ValueError(f"{', '.join(lacking)} not installed: pip install -e '.[analyze]'")
