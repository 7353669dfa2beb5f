"""Session folders of private Ray clusters under /tmp, and removal of those that dead drivers left."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Paths of Unix sockets are limited to 107 bytes, so the session folders have short ones.
ROOT = Path("/tmp")
PREFIX = "odf-"
OWN = re.compile(PREFIX + r"\w{8}")
LOCK = "driver.lock"
"""Lock file that the kernel releases when the driver dies, however it dies."""


@contextmanager
def session_folder() -> Iterator[Path]:
    """Create a session folder for the block. Folders of dead processes are removed."""
    remove_left_over()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=ROOT))
    temporary = folder / "driver.new"
    with temporary.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        temporary.rename(folder / LOCK)  # never visible without its lock
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_left_over() -> None:
    """Remove the session folders of this user's dead drivers."""
    for folder in ROOT.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another user's, or gone meanwhile
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            # Removed before, and made again by one of Ray's processes that outlived the driver by a moment.
            if not (folder / LOCK).exists() and OWN.fullmatch(folder.name) and any(folder.glob("session_*")):
                shutil.rmtree(folder, ignore_errors=True)
            with (folder / LOCK).open(encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
