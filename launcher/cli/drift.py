"""The command ``odeformer drift``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from launcher import preflight
from launcher.cli.options import AsJson, AttachedAdapter, Depth, Model, Overwrite, TrackingUri
from launcher.cli.output import check_installed, make_progress, show

if TYPE_CHECKING:
    from rich.console import RenderableType


def drift(
    model: Model,
    reference: Annotated[Path, Option(help="Reference text file, like those the model was evaluated on.")],
    text: Annotated[Path, Option(help="New text file, like those the model reads now.")],
    out: Annotated[Path, Option(help="Folder to write to.")],
    depth: Depth = None,
    adapter: AttachedAdapter = None,
    fail_on_drift: Annotated[
        bool, Option("--fail-on-drift", help="Exit with code 1 if drift is found.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Test whether new text differs from a reference text.

    Example: odeformer drift --model m --reference a.txt --text b.txt --out o
    """
    check_installed("analyze", "plotly", "jinja2")
    preflight.at_model(model, tracking_uri, adapter)
    from launcher.analysis import drift as monitor
    from launcher.analysis.pages.drift import table, verdict

    progress = make_progress(as_json)
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
    shown: list[RenderableType] = [
        table(content),
        *verdict(content),
        f"open {out / 'drift.html'} in a browser",
    ]
    show(shown, content, as_json)
    if fail_on_drift and content["moved"]:
        raise typer.Exit(1)
