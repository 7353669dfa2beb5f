"""The command ``odeformer init``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument


def init(
    path: Annotated[Path, Argument(metavar="[PATH]", help="YAML file to write.")] = Path("run.yaml"),
) -> None:
    """Write a commented starter configuration.

    Example: odeformer init run.yaml
    """
    from launcher.configuration.starter import write_starter

    write_starter(path)
    print(f"{path}: edit it, then preview the run: odeformer pretrain {path} --dry-run")
