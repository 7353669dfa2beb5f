"""Locks on files, which the kernel releases when their process dies, however it dies."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def locked(file: Path, wait: bool = True) -> Iterator[TextIO]:
    """Hold the lock of a file, which is made if it is missing, while the block runs.

    Args:
        wait: until whoever holds it lets go.

    Returns:
        The file, opened to read and to append.

    Raises:
        BlockingIOError: when another process holds it and ``wait`` is false.
    """
    with file.open("a+", encoding="utf-8") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield opened
