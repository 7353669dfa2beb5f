"""The folders under /tmp in which private Ray clusters live, and those that dead drivers have left there."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Unix sockets have a limit of 107 bytes, so sessions live under short paths.
ROOT = Path("/tmp")
PREFIX = "odf-"
LOCK = "driver.lock"
"""Locked for as long as the driver lives: the kernel lets go of it when the driver dies, however it dies."""


@contextmanager
def session_folder() -> Iterator[Path]:
    """A folder of this process's own while the block runs; those of dead processes are removed."""
    remove_left_over()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=ROOT))
    beside = folder / "driver.new"
    with beside.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        beside.rename(folder / LOCK)  # nobody ever sees it without its lock
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_left_over() -> None:
    """Remove the folders of this user's drivers that have died."""
    for folder in ROOT.glob(f"{PREFIX}*"):
        with suppress(OSError):  # somebody else's, or gone meanwhile
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with (folder / LOCK).open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
