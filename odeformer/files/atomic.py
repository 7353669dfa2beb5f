"""Atomic writes: readers see a file or folder completely or not at all, whenever the writer is killed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""Numbers of the errors of a disk that is full or broken, which no change of the input would help."""


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
        with named(folder):
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
def new_file(file: Path) -> Iterator[Path]:
    """Yield the path of a temporary file, which replaces ``file`` when the block ends without an error.

    The file is synced to disk first. After an error nothing has changed. Several threads and processes, also
    of several machines, may write the file at the same time: the last one wins.

    Raises:
        OSError: naming a file, also where the system does not, as for a full disk.
    """
    beside = file.with_name(f".{file.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.incomplete")
    with named(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            flush(beside)
            beside.replace(file)
            flush(file.parent)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def named(place: Path) -> Iterator[None]:
    """Name the place in the errors of a full or broken disk, which name a temporary file or nothing at all.

    A full disk makes safetensors, tokenizers and numpy raise errors of their own; they become ``OSError``.
    """
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
