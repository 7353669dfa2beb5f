"""``odeformer init``: where somebody's own run begins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    path: Annotated[Path, typer.Argument(metavar="[PATH]", help="The YAML file to write.")] = Path(
        "run.yaml"
    ),
) -> None:
    """Write a commented configuration to begin with. Example: odeformer init run.yaml"""
    from launcher.configuration.starter import write_starter

    write_starter(path)
    print(f"{path}: change what is yours, then look: odeformer pretrain {path} --dry-run")
