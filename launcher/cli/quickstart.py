"""``odeformer quickstart``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def quickstart(
    directory: Annotated[Path, typer.Option("--dir", help="Where everything is written.")] = Path(
        "runs/quickstart"
    ),
) -> None:
    """The whole road in five minutes on two CPU cores. Example: odeformer quickstart"""
    from launcher.quickstart.run import run

    run(directory)
