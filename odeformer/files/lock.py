"""File locks, which the kernel releases when their process ends for any reason."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def locked(file: Path, wait: bool = True) -> Iterator[TextIO]:
    """Hold an exclusive lock on a file while the block runs, and yield the file, open to read and append.

    Args:
        file: the file to lock; it is created if it is missing.
        wait: whether to wait until the lock is free.

    Raises:
        BlockingIOError: if another process holds the lock and ``wait`` is false.
    """
    with file.open("a+", encoding="utf-8") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield opened
