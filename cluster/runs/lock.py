"""One run at a time in a folder, by a lock that dies with its process."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from odeformer.files.lock import locked

FILE_NAME = ".lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the folder for as long as the block runs. The kernel lets go of it when the process dies.

    Raises:
        BlockingIOError: when another process holds it, which is named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    with ExitStack() as stack:
        try:
            file = stack.enter_context(locked(path, wait=False))
        except BlockingIOError:
            holder = path.read_text().strip() or "another process"
            raise BlockingIOError(
                f"run.dir {folder} is in use by {holder}: wait for it, stop it, or choose another run.dir"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
