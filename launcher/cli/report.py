"""The command ``odeformer report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from launcher.cli.options import Overwrite, TrackingUri
from launcher.cli.output import check_installed, say


def report(
    compare: Annotated[
        tuple[str, str],
        Option(
            metavar="A B",
            help="Analyses of the same text: folders from odeformer analyze, or model versions.",
        ),
    ],
    out: Annotated[Path, Option(help="Folder to write to.")],
    overwrite: Overwrite = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Compare two analyses side by side.

    Example: odeformer report --compare before after --out compared
    """
    check_installed("analyze", "plotly", "jinja2")
    from launcher.analysis import compare as comparison

    page = comparison.compare(*compare, out, tracking_uri, overwrite=overwrite)
    say(f"open {page} in a browser; numbers: {out / comparison.FILE}")
