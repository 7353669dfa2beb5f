"""Ray leaves the processes of a killed raylet alive. A worker must not be: its successor may be at work."""

from __future__ import annotations

import os
import threading
import time

LOOK_SECONDS = 1.0
EXIT_CODE = 1


def end_with_parent() -> None:
    """From now on this process ends when the one that started it has; a worker's is its node's raylet."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(EXIT_CODE)
