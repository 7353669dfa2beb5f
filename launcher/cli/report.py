"""``odeformer report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher.cli.options import Overwrite, TrackingUri


def report(
    compare: Annotated[
        tuple[str, str],
        typer.Option(
            metavar="A B",
            help="Folders that odeformer analyze wrote of the same text, or versions it logged them with.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    overwrite: Overwrite = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Set two analyses side by side. Example: odeformer report --compare before after --out compared"""
    from launcher.cli.analyze import check_installed

    check_installed("plotly", "jinja2")
    from launcher.analysis import compare as comparison
    from launcher.terminal.console import make_console

    page = comparison.compare(*compare, out, tracking_uri, overwrite=overwrite)
    make_console().print(
        f"open {page} in a browser; numbers: {out / comparison.FILE}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
