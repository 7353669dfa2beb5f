"""Atomic writes: readers see a file or folder completely or not at all, whenever the writer is killed."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_folder(folder: Path, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Yield a temporary folder, which replaces ``folder`` when the block ends without an error.

    The files are synced to disk first. After an error nothing has changed.

    Args:
        folder: the folder to create or replace.
        check: called just before the replacement; raises an error if ``folder`` must not be replaced.
    """
    beside, aside = (folder.with_name(f".{folder.name}.{state}") for state in ("incomplete", "replaced"))
    if aside.exists() and not folder.exists():  # killed between the two renames below
        aside.rename(folder)
    for left_over in (beside, aside):
        shutil.rmtree(left_over, ignore_errors=True)
    try:
        with _place_named(folder):
            beside.mkdir(parents=True)
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
def new_file(file: Path, writer: str = "") -> Iterator[Path]:
    """Yield the path of a temporary file, which replaces ``file`` when the block ends without an error.

    The file is synced to disk first. After an error nothing has changed.

    Args:
        file: the file to create or replace.
        writer: a name that tells processes apart which may write the file at the same time.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}{writer and '.'}{writer}.incomplete")
    try:
        with _place_named(file):
            yield beside
            flush(beside)
        beside.replace(file)
        flush(file.parent)
    finally:
        beside.unlink(missing_ok=True)


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""Error numbers of a disk that is full, over its quota or broken."""


@contextmanager
def _place_named(place: Path) -> Iterator[None]:
    """Add the place to the errors of a full or broken disk, which name a temporary file or nothing at all."""
    try:
        yield
    except Exception as error:
        in_rust = re.search(r"\(os error (\d+)\)", str(error))  # of safetensors and tokenizers
        number = int(in_rust[1]) if in_rust else getattr(error, "errno", None)
        if " requested and " in str(error):  # numpy does not say why it wrote less than it should
            number = errno.ENOSPC
        if number not in DISK_ERRORS:
            raise
        raise OSError(number, os.strerror(number), str(place)) from None


def flush(path: Path) -> None:
    """Sync a file, or a folder's list of names, to disk (``fsync``)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
