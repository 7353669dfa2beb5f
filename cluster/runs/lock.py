"""Lock that allows one run per folder and is released when its process dies."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from odeformer.files.atomic import named
from odeformer.files.lock import locked

FILE_NAME = ".lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder while the block runs.

    Raises:
        BlockingIOError: when another process holds it, with the name of that process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    with ExitStack() as stack:
        try:
            file = stack.enter_context(locked(path, wait=False))
        except BlockingIOError:
            holder = path.read_text(encoding="utf-8").strip() or "another process"
            raise BlockingIOError(
                f"run.dir {folder} is in use by {holder}: wait for it, stop it, or choose another run.dir"
            ) from None
        with named(path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield


def holders() -> dict[int, int]:
    """Process ids of lock holders by inode, found without trying to lock anything.

    Devices are not compared, as some file systems report different ones here and in ``stat``.
    """
    with suppress(OSError, ValueError):
        holders = {}
        for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
            if " -> " not in line:  # those are waiting
                row = line.split()
                holders[int(row[5].rpartition(":")[2])] = int(row[4])
        return holders
    return {}
