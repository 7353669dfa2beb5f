"""The command ``odeformer quickstart``."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Annotated

from typer import Option

from launcher.cli.output import make_progress

MARK = ".quickstart"
"""A file in every quick-start folder; other folders are never cleared."""


def quickstart(
    directory: Annotated[Path, Option("--dir", help="Folder to write to.")] = Path("runs/quickstart"),
) -> None:
    """Run an end-to-end demo, in minutes on two CPU cores.

    Example: odeformer quickstart
    """
    started = time.monotonic()
    _clear(directory)
    progress = make_progress()
    with progress.stage("libraries"):
        from launcher.quickstart.run import run
    run(directory, progress, started)


def _clear(directory: Path) -> None:
    """Remove the results of an earlier quick start.

    Raises:
        ValueError: If the folder holds anything else.
    """
    if directory.exists() and not (directory / MARK).is_file() and any(directory.iterdir()):
        raise ValueError(f"{directory} holds something other than a quick start: choose another --dir")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MARK).touch()
    for part in ("shards", "pretrain", "tasks", "finetune"):
        shutil.rmtree(directory / part, ignore_errors=True)
