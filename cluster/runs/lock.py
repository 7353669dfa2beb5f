"""One run at a time in a folder, by a lock that dies with its process."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE_NAME = ".lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the folder for as long as the block runs. The kernel lets go of it when the process dies.

    Raises:
        BlockingIOError: when another process holds it, which is named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Opened without emptying it: it says who holds the lock.
    with (folder / FILE_NAME).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise BlockingIOError(
                f"run.dir {folder} is in use by {holder}: wait for it, stop it, or choose another run.dir"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
