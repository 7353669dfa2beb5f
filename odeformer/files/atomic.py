"""Write a file or a folder so that a reader sees all of it or nothing, whenever the writer is killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_folder(folder: Path, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A folder beside ``folder`` to write in, which takes its place when the block ends without an error.

    Its files are on the disk by then. After an error nothing has changed.

    Args:
        check: called just before: raises where ``folder`` must not be replaced.
    """
    beside, aside = (folder.with_name(f".{folder.name}.{state}") for state in ("incomplete", "replaced"))
    if aside.exists() and not folder.exists():  # killed between the two renames below
        aside.rename(folder)
    for left_over in (beside, aside):
        shutil.rmtree(left_over, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        for path in (*beside.iterdir(), beside):
            flush(path)
        check()
        if folder.exists():
            folder.rename(aside)
        beside.rename(folder)
        flush(folder.parent)
    finally:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        for left_over in (beside, aside):
            shutil.rmtree(left_over, ignore_errors=True)


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """As :func:`new_folder`, of a single file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.incomplete")
    try:
        yield beside
        flush(beside)
        beside.replace(file)
        flush(file.parent)
    finally:
        beside.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Write a file, or a folder's list of names, to the disk (``fsync``)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
